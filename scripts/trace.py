"""The command `jaxbp trace`, from a clone: python scripts/trace.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["trace", *sys.argv[1:]]))
