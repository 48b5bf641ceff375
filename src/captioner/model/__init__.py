"""The decoder, the captioner and how it generates captions."""
