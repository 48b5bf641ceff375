"""From caption files to word ids.

- `formats`: reading caption files in every form, and the splits
- `text`: cleaning characters in any script; joining and splitting tokens
- `tokens`: from a caption to tokens, by `captions.language`
- `ptb`: English tokens (Penn Treebank) without Java
- `vocabulary`: the words that a decoder knows, and their ids
- `tokenise`: the work of the stage tokenise
- `dataset`: reading and writing the files that tokenise gives to later stages
"""
