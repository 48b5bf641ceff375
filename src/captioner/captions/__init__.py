"""From caption files to word ids.

- `formats`: reading caption files in every form, and the splits
- `text`: cleaning characters in any script, joining and splitting tokens
- `tokens`: from a caption to tokens, by `captions.language`
- `ptb`: English tokens (Penn Treebank) without Java
- `vocabulary`: the words that a decoder knows, and their ids
- `tokenise`: what the stage tokenise does
- `dataset`: the files that tokenise leaves to the other stages
"""
