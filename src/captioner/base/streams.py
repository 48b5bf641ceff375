"""What is printed never stops a program: not a locale without the letters of a caption, not a name that is no text."""

import io
import sys
import warnings


def tolerant_streams() -> None:
    """Let stdout and stderr take any text, and hide what Pillow warns about the metadata of photos.

    A UTF-8 stdout gets the bytes of a file's name back where they are not UTF-8. Any other stdout gets `?` for what its
    encoding lacks, and stderr an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        unicode = sys.stdout.encoding.lower().replace("-", "").replace("_", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")
