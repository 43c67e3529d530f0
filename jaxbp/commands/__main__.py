"""The command `jaxbp`, which is also `python -m jaxbp`; scripts/NAME.py is `jaxbp NAME`.

Whatever is wrong with what was asked for ends in one line on stderr, and with exit status 2.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

import jaxbp
from jaxbp.commands.streams import flush_output, open_streams, tell
from jaxbp.errors import InputError, unknown
from jaxbp.machine import check_devices

COMMANDS = {
    "tokenize": "text to files of token ids",
    "train": "trains an experiment, or goes on with a run",
    "search": "trains with all values of some keys, and with several seeds",
    "evaluate": "scores a finished run on its data",
    "predict": "predictions of a finished run for new rows",
    "sample": "text from a trained language model",
    "attention": "what the attention of a trained language model looks at",
    "report": "what runs show and what is wrong with them, as a page",
    "surface": "the loss as a surface, with the way that training takes",
    "rate": "finds a learning rate",
    "replay": "repeats the step at which a run stopped",
    "fsck": "checks run folders for damage",
    "trace": "every number of one forward and backward pass",
    "check": "checks a gradient against jax.grad and differences",
    "bench": "measures a suite against jax.grad",
    "accelerator": "tries the device: gradients, speed, memory",
    "compare_credit": "compares credit rules on MNIST",
}
EXTRAS = dict.fromkeys(("jinja2", "matplotlib", "orbax", "PIL", "scipy", "sklearn", "tqdm"), "train")
EXTRAS |= {"tensorboardX": "tensorboard", "wandb": "wandb", "datasets": "datasets"}
LESS_MEMORY = "lower run.batch_size, raise run.micro_batches, or make the model smaller"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command of the words, those of the command line by default, and returns the exit status."""
    return guarded(run, words)


def guarded(command: Callable[[Sequence[str]], int], words: Sequence[str] | None = None) -> int:
    """The exit status of command(words), those of the command line by default.

    2 after one line for what is wrong: the words, a file, the memory, an output that nobody reads; 130 after Ctrl-C.
    """
    open_streams()
    status = 2
    try:
        status = command(sys.argv[1:] if words is None else words)
        line = ""
    except InputError as error:
        line = str(error)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if name not in EXTRAS:
            raise
        line = f"{name} is missing: pip install 'jaxbp[{EXTRAS[name]}]'"
    except OSError as error:
        line = told(error)
    except (MemoryError, RuntimeError) as error:
        _, is_ours, text = str(error).rpartition("\nInputError: ")  # raised where JAX calls a function on the host
        if isinstance(error, RuntimeError) and not is_ours and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = text if is_ours else f"out of memory: {LESS_MEMORY} ({str(error).partition(chr(10))[0]})"
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        line = "interrupted"
    except SystemExit as end:
        unwritten = flush_output()
        if end.code or not unwritten:
            raise
        line = told(unwritten)
    if (unwritten := flush_output()) and not line:
        status = 2
        line = told(unwritten)
    if line:
        tell(f"error: {line}")
    return status


def told(error: OSError) -> str:
    """One line for what the system refused. A write that fails without a file's name is that of the output."""
    if error.filename is not None:
        name = os.fsdecode(error.filename)
    elif isinstance(error, BrokenPipeError):
        return "nobody reads the output any more"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        name = "standard output"
    else:
        return str(error)
    return " ".join(f"{name}: {error.strerror}".splitlines())


def run(words: Sequence[str]) -> int:
    """Runs the command that the first word names. Raises InputError for an unknown one."""
    if not words or words[0] in ("--help", "-h"):
        print("jaxbp COMMAND [OPTION ...], where jaxbp COMMAND --help shows the options\n")
        for name, meaning in COMMANDS.items():
            print(f"  {name:16s}{meaning}")
        return 0
    if words[0] == "--version":
        print(jaxbp.__version__)
        return 0
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    command = importlib.import_module(f"jaxbp.commands.{words[0]}")
    gc.freeze()  # what is imported is no garbage: to look through it again and again takes a tenth of a start
    try:
        return command.main(words[1:])
    except (RuntimeError, AssertionError):
        check_devices()  # what JAX raises without them has no clear words
        raise
