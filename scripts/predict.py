"""The command `jaxbp predict`, from a clone: python scripts/predict.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["predict", *sys.argv[1:]]))
