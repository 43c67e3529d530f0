"""The command `jaxbp sample`, from a clone: python scripts/sample.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["sample", *sys.argv[1:]]))
