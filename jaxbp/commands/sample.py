"""Text from a trained language model:

    jaxbp sample [DIR] [--prompt=TEXT] [--temperature=0.8]

Prints it, and writes it to sample.txt in the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxbp.commands import cli
from jaxbp.core import leaf_layers
from jaxbp.errors import InputError
from jaxbp.files import write_whole
from jaxbp.layers import Recurrent
from jaxbp.programs import keep_programs
from jaxbp.training.run import load
from jaxbp.training.sample import sample
from jaxbp.typed import NotNegative, Range, Seed, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        prompt: the beginning of the text
        length: characters
        temperature: below 1 favours likely characters, above 1 unlikely ones; 0 takes the likeliest
        seed: of the draws
        code: run the code that the run has kept, where its config needs classes of your own
    """

    run: str = "runs/charlm"
    prompt: str = "\n"
    length: Annotated[int, Range(1, 10**7)] = 1000
    temperature: NotNegative = 0.8
    seed: Seed = 0
    code: bool = False


def main(words: Sequence[str]) -> int:
    """Draws the text that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    run = load(options.run, options.code)
    keep_programs(run.config)
    recurrent = any(isinstance(leaf, Recurrent) for leaf in leaf_layers(run.model))
    if not recurrent or not run.classes or any(len(name) != 1 for name in run.classes):
        raise InputError(f"{options.run} is not a run on text by characters")
    text = options.prompt + sample(
        run.model, run.params, run.classes, options.prompt, options.length, options.temperature, options.seed
    )
    write_whole(Path(options.run) / "sample.txt", text.encode())
    print(text)
    return 0
