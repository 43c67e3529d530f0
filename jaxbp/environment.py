"""Imports JAX before all else: a variable of the environment that JAX cannot read ends the process in one line."""

import re
import sys

try:
    import jax  # noqa: F401  it reads its variables here
except ValueError as error:
    text = re.sub(r"JAX flag (\w+)", lambda match: match[1].upper(), str(error))
    if "JAX_" not in text:
        raise
    print(f"error: in the environment: {text}", file=sys.stderr)
    raise SystemExit(2) from error
