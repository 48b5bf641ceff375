"""Printing that never fails, even if the locale lacks letters of a caption or a file name is not UTF-8."""

import io
import os
import sys
import warnings


def tolerant_streams() -> None:
    """Let stdout and stderr accept any text, and hide Pillow's warnings about the metadata of photos.

    A UTF-8 stdout gets the original bytes of a file name that is not UTF-8. Any other stdout gets `?` for characters
    that its encoding lacks. stderr gets an escape. A closed stream (`>&-`) takes everything and writes nothing.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # the lowest free descriptor is the stream's, which a file of data would otherwise get
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        unicode = sys.stdout.encoding.lower().replace("-", "").replace("_", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")
