"""The command `jaxbp tokenize`, from a clone: python scripts/tokenize_text.py --help

The file is not called tokenize.py, because Python's own module of that name would then be hidden from all scripts.
"""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main(["tokenize", *sys.argv[1:]]))
