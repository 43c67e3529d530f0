"""The command `jaxbp accelerator`, from a clone: python scripts/accelerator.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["accelerator", *sys.argv[1:]]))
