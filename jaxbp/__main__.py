"""python -m jaxbp is the command `jaxbp`."""

import sys

from jaxbp.commands.__main__ import main

sys.exit(main())
