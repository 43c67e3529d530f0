"""The command `jaxbp check`, from a clone: python scripts/check_gradients.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["check", *sys.argv[1:]]))
