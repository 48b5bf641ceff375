"""The command `captioner` and what it does with a model.

- `cli`: the entry point of the command
- `commands`: a module for each command
- `caption`: `PhotoCaptioner`, captions for photos from Python
- `options`: the options of the search and their defaults
- `library`: photos in folders, and the text files beside them
- `cache`: the cache folder
- `beams`: the candidates for a caption, with scores, attention and similar images
- `explain`: the picture of `captioner explain`
- `export`, `runtime`: the model as ONNX, and the file that runs it without PyTorch
- `server`, `description`: the server of `captioner serve`, and its answers; its page is in page/
"""
