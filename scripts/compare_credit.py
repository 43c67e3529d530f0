"""The command `jaxbp compare_credit`, from a clone: python scripts/compare_credit.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["compare_credit", *sys.argv[1:]]))
