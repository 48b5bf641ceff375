"""The command `captioner` and what it does with a model.

- `cli`: the command itself
- `commands`: a module for each command
- `caption`: captions for photos, from Python: `PhotoCaptioner`
- `options`: the defaults of the search
- `library`: photos in folders, and the text files beside them
- `cache`: the cache folder
- `beams`: what a caption was chosen from: beams, scores, attention, similar images
- `explain`: the picture of `captioner explain`
- `export`, `runtime`: the model as ONNX, and the file that runs it without PyTorch
- `server`, `description`: the server of `captioner serve`, and what it answers; its page is in page/
"""
