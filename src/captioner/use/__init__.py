"""The command `captioner` and what it does with a model."""
