"""Scores of captions, without a model.

- `evaluation`: all scores of captions, and the sums for their intervals
- `scores`: BLEU, ROUGE-L and CIDEr by pycocoevalcap, and the diversity of captions
- `meteor`: METEOR 1.5, by a Java program
- `words`: absent words and agreed words
- `cider`: CIDEr of word ids, for the reward and the choice among beams
- `language`: counts of words, lengths and frequent errors, for the report
- `bootstrap`: bootstrap intervals over images
- `predictions`, `references`, `matching`: the files of `captioner score`, and matching their images
- `compare`: scores of predictions, and the difference between two files of predictions
"""
