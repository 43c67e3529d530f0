"""Text from a trained language model:

    jaxbp sample [DIR] [--prompt=TEXT] [--temperature=0.8] [--top_k=40] [--top_p=0.95]

Prints it, and writes it to sample.txt in the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxbp.commands import cli
from jaxbp.data.outside import located
from jaxbp.errors import InputError
from jaxbp.files import overwrite
from jaxbp.programs import keep_programs
from jaxbp.training.run import load
from jaxbp.training.sample import sample, text_of
from jaxbp.typed import Count, NotNegative, Range, Seed, Typed

LONGEST = 10_000_000  # characters or tokens of a sample, which is held in memory


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        prompt: the beginning of the text
        length: tokens, which are characters where the run's data are
        temperature: below 1 favours likely tokens, above 1 unlikely ones; 0 takes the likeliest
        top_k: only so many, the likeliest, are drawn; None: all
        top_p: only the likeliest are drawn that together have this probability; None: all
        seed: of the draws
        code: run the code that the run has kept, where its config needs classes of your own
        step: that of an older checkpoint; None: the newest
    """

    run: str = "runs/charlm"
    prompt: str = "\n"
    length: Count = 1000
    temperature: NotNegative = 0.8
    top_k: Count | None = None
    top_p: Annotated[float, Range(0, 1, "(]")] | None = None
    seed: Seed = 0
    code: bool = False
    step: Count | None = None


def main(words: Sequence[str]) -> int:
    """Draws the text that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    if options.length > LONGEST:
        raise InputError(f"--length must be at most {LONGEST:,}, got {options.length}")
    run = load(located(options.run), options.code, options.step)
    keep_programs(run.config)
    vocabulary = text_of(run.model, run.preparation, run.classes)
    if vocabulary is None:
        raise InputError(f"{options.run} is not a run on text by characters or tokens")
    text = options.prompt + sample(
        run.model,
        run.params,
        vocabulary,
        options.prompt,
        options.length,
        options.temperature,
        options.seed,
        options.top_k,
        options.top_p,
        getattr(run.config.data, "length", None),
    )
    overwrite(Path(options.run) / "sample.txt", text.encode())
    print(text)
    return 0
