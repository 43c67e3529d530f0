"""The command `jaxbp`, which is also `python -m jaxbp`; scripts/NAME.py is `jaxbp NAME`.

Whatever is wrong with what was asked for ends in one line on stderr, and with exit status 2.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence

import jaxbp
from jaxbp.errors import InputError, unknown

COMMANDS = {
    "tokenize": "text to files of token ids",
    "train": "trains an experiment, or goes on with a run",
    "evaluate": "scores a finished run on its data",
    "predict": "predictions of a finished run for new rows",
    "sample": "text from a trained language model",
    "attention": "what the attention of a trained language model looks at",
    "replay": "repeats the step at which a run stopped",
    "trace": "every number of one forward and backward pass",
    "check": "checks a gradient against jax.grad and differences",
    "bench": "measures a suite against jax.grad",
}
EXTRAS = dict.fromkeys(("matplotlib", "orbax", "PIL", "scipy", "sklearn", "tqdm"), "train")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command of the words, those of the command line by default, and returns the exit status."""
    return guarded(run, words)


def guarded(command: Callable[[Sequence[str]], int], words: Sequence[str] | None = None) -> int:
    """The exit status of command(words), those of the command line by default; 2 after one line for what is wrong."""
    try:
        try:
            return command(sys.argv[1:] if words is None else words)
        finally:
            sys.stdout.flush()  # not at Python's end, where a closed pipe would be a traceback
    except InputError as error:
        line = str(error)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if name not in EXTRAS:
            raise
        line = f"{name} is missing: pip install 'jaxbp[{EXTRAS[name]}]'"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes what Python still wants to write
        line = "nobody reads the output any more"
    except OSError as error:
        line = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"error: {line}", file=sys.stderr)
    return 2


def run(words: Sequence[str]) -> int:
    """Runs the command that the first word names. Raises InputError for an unknown one."""
    if not words or words[0] in ("--help", "-h"):
        print("jaxbp COMMAND [OPTION ...], where jaxbp COMMAND --help shows the options\n")
        for name, meaning in COMMANDS.items():
            print(f"  {name:11s}{meaning}")
        return 0
    if words[0] == "--version":
        print(jaxbp.__version__)
        return 0
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    command = importlib.import_module(f"jaxbp.commands.{words[0]}")
    gc.freeze()  # what is imported is no garbage: to look through it again and again takes a tenth of a start
    return command.main(words[1:])
