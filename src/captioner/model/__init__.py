"""The decoder, the captioner, and the generation of captions.

- `decoder`: the LSTMs that attend over the grid or start from the pooled image
- `lstm`, `packing`, `dropout`: parts of the decoder, fast on a CPU
- `standardise`: mean and deviation of image features
- `captioner`: encoder blocks and decoder in one model, and the model file
- `search`: beam search, and drawing captions at random
- `graphs`: drawing words with CUDA graphs
- `generate`: from images to captions, by beam search
- `settings`: the params of the search
- `consensus`: the choice among beams by captions of similar training images
- `attention`: the attention at each word of a caption
"""
