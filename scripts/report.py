"""The command `jaxbp report`, from a clone: python scripts/report.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["report", *sys.argv[1:]]))
