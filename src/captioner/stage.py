"""What every stage script does around its one library call."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from captioner.errors import CaptionerError
from captioner.params import read_params


def run(main: Callable[[Any], None]) -> None:
    """Call `main` with the validated params; end the process with 1 on a user's error, 130 on an interruption.

    SIGTERM is turned into KeyboardInterrupt, so that files being written are cleaned up and DVC sees a
    failed stage.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
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
