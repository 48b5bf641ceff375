"""The exception for errors that a user can correct."""


class CaptionerError(Exception):
    """Bad input, a missing file or an impossible setting.

    The message names the file, key or line, what was expected and what to do. Stages print it without a traceback and
    exit with 1. Any other exception is a defect of this program.
    """
