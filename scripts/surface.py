"""The command `jaxbp surface`, from a clone: python scripts/surface.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["surface", *sys.argv[1:]]))
