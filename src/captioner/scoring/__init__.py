"""Scores of captions, without a model.

- `evaluation`: all scores of captions, and the sums for their intervals
- `scores`: BLEU, ROUGE-L, CIDEr as pycocoevalcap has them, and the variety of captions
- `meteor`: METEOR 1.5, by a Java program
- `words`: absent words and agreed words
- `cider`: CIDEr on word ids, for the reward and the choice among beams
- `language`: counts of words, lengths and frequent errors, for the report
- `bootstrap`: bootstrap intervals over images
- `predictions`, `references`, `matching`: reading both for `captioner score`, and matching their images
- `compare`: scoring predictions and comparing two
"""
