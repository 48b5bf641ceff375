"""The commands of `captioner`, a module each, with `add_parser` that defines its arguments.

A module imports what takes time (torch, Pillow) when its command runs, within `importing`, so that `--help` is quick.

- `caption`: a caption for each photo
- `explain`: a picture of how a caption came about
- `serve`: a page in the browser that captions photos
- `score`: scores of any captions against references
- `export`: the model as ONNX
- `card`: what a model file says of itself
- `strip`: a model without its training captions
- `completion`: completion by the shell
- `arguments`: what several commands share
"""
