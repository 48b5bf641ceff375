"""`python -m captioner`: the command `captioner`."""

import sys

from captioner.use.cli import main

if __name__ == "__main__":
    sys.exit(main())
