"""The command `jaxbp rate`, from a clone: python scripts/rate.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["rate", *sys.argv[1:]]))
