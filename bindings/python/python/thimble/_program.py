"""The program `thimble`."""

import os
import signal
import sys

from . import _thimble


def main() -> int:
    """Runs the command line and returns its exit code."""
    # The program's own words and end on Ctrl-C, not Python's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _thimble.main([os.fsencode(argument) for argument in sys.argv])
