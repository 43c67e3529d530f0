"""The command `jaxbp`: Ctrl-C while it still imports ends it with status 130, and without the imports' traceback."""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Imports the commands, runs the one of the command line, and returns the exit status."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # ignored stays ignored, as nohup asks for
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from jaxbp.commands.__main__ import main as run

    signal.signal(signal.SIGINT, before)
    return run()
