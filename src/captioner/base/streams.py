"""Printing that never fails, even if the locale lacks letters of a caption or a file name is not UTF-8."""

import io
import sys
import warnings


def tolerant_streams() -> None:
    """Let stdout and stderr accept any text, and hide Pillow's warnings about the metadata of photos.

    A UTF-8 stdout gets the original bytes of a file name that is not UTF-8. Any other stdout gets `?` for characters
    that its encoding lacks. stderr gets an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        unicode = sys.stdout.encoding.lower().replace("-", "").replace("_", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")
