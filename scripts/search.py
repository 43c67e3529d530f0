"""The command `jaxbp search`, from a clone: python scripts/search.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["search", *sys.argv[1:]]))
