"""What every stage script does around its one library call."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from captioner.errors import CaptionerError
from captioner.params import read_params

LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}


def run(main: Callable[[Any], None]) -> None:
    """Call `main` with the validated params; end the process with 1 on a user's error, 130 on an interruption.

    SIGTERM is turned into KeyboardInterrupt, so that files being written are cleaned up and DVC sees a
    failed stage. The environment variable CAPTIONER_LOG (quiet, normal, verbose) says how much is logged.
    """
    said = os.environ.get("CAPTIONER_LOG", "normal")
    if said not in LEVELS:
        sys.exit(f"error: CAPTIONER_LOG: is {said!r}, expected one of {', '.join(LEVELS)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("captioner").setLevel(LEVELS[said])  # the libraries' own logs stay at warnings
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(read_params())
    except CaptionerError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that cannot be written, a file that went away
        sys.exit(f"error: {error}; nothing half-written was left. Mend it and run again")
    except KeyboardInterrupt:
        print("interrupted; run again to go on", file=sys.stderr)
        sys.exit(130)
