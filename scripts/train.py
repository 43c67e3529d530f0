"""The command `jaxbp train`, from a clone: python scripts/train.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["train", *sys.argv[1:]]))
