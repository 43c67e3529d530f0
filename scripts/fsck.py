"""The command `jaxbp fsck`, from a clone: python scripts/fsck.py --help"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["fsck", *sys.argv[1:]]))
