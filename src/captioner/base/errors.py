"""The one exception for what a user can mend."""


class CaptionerError(Exception):
    """Bad input, a missing file or an impossible setting.

    The message names the file, key or line, says what was expected and what to do. Stages print it
    without a traceback and exit with 1; anything else that is raised is a defect of this program.
    """
