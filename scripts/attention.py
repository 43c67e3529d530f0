"""The command `jaxbp attention`, from a clone: python scripts/attention.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["attention", *sys.argv[1:]]))
