"""Training: the decoder on stored features, then the decoder with the encoder's last blocks.

- `batches`: captions and features of a split, batches, random windows
- `objectives`: the loss of the next word, label smoothing, scheduled sampling
- `self_critical`: the loss of self-critical training
- `reward`: the reward of self-critical training, CIDEr of drawn captions
- `schedule`: parameter groups and learning rates
- `loop`: epochs and steps, averaged weights, the resume state
- `early_stopping`: the best epoch, and the end of a run
- `dev`: loss, captions and scores on the dev split
- `start`: a decoder that starts from another model
- `train`: the work of the stage train
- `finetune`: the work of the stage finetune
- `curves`: the curve and the summary of both stages
"""
