"""The decoder, the captioner and how it generates captions.

- `decoder`: the LSTM that attends over the grid or starts from the pooled image
- `lstm`, `packing`, `dropout`: its parts, made fast on a CPU
- `standardise`: mean and deviation of image features
- `captioner`: encoder blocks and decoder in one model, and the model file
- `search`: beam search, and drawing captions at random
- `generate`: from images to captions, by beam search
- `settings`: the params of the search
- `consensus`: the choice among beams, by captions of similar training images
- `attention`: where the decoder looked at each word
"""
