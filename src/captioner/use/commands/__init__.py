"""The commands of `captioner`, a module each, with `add_parser` that defines its arguments.

A module imports what takes time (torch, Pillow) when its command runs, within `importing`, so that `--help` is quick.
"""
