"""The command `jaxbp replay`, from a clone: python scripts/replay.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["replay", *sys.argv[1:]]))
