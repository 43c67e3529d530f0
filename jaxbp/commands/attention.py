"""What the attention of a trained language model looks at:

    jaxbp attention DIR --text=TEXT

Draws the weights of every head over the tokens of the text, in attention.png of the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.commands import cli
from jaxbp.errors import InputError
from jaxbp.programs import keep_programs
from jaxbp.training.report.attention import attention_maps, draw_attention
from jaxbp.training.run import load
from jaxbp.training.sample import context_of, text_of
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        text: what the model reads
        code: run the code that the run has kept, where its config needs classes of your own
    """

    run: str
    text: str
    code: bool = False


def main(words: Sequence[str]) -> int:
    """Draws the picture that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    run = load(options.run, options.code)
    keep_programs(run.config)
    vocabulary = text_of(run.model, run.preparation, run.classes)
    if vocabulary is None:
        raise InputError(f"{options.run} is not a run on text by characters or tokens")
    ids = vocabulary.encode(options.text, "the text")
    limit = context_of(run.model)
    if not 0 < len(ids) <= (limit or len(ids)):
        raise InputError(f"the text has {len(ids)} tokens, and the model reads 1 to {limit or 'any number'} of them")
    names = [repr(vocabulary.decode(np.array([i])))[1:-1] for i in ids]
    path = Path(options.run) / "attention.png"
    draw_attention(attention_maps(run.model, run.params, run.state, ids), names, path)
    print(path)
    return 0
