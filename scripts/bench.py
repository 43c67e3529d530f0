"""The command `jaxbp bench`, from a clone: python scripts/bench.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["bench", *sys.argv[1:]]))
