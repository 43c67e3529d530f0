"""The command `jaxbp evaluate`, from a clone: python scripts/evaluate.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
