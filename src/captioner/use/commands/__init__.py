"""The commands of `captioner`, a module for each. `add_parser` defines the command's arguments.

A module imports slow packages (torch, Pillow) only when its command runs, within `importing`, so that `--help` is fast.

- `caption`: a caption for each photo
- `explain`: a picture that explains a caption
- `serve`: a page in the browser that captions photos
- `score`: scores of any captions against references
- `export`: the model as ONNX
- `card`: the metadata of a model file
- `strip`: a model without its training captions
- `completion`: completion by the shell
- `arguments`: arguments that several commands share
"""
