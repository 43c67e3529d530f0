"""Samples of a model of text while it is trained: samples/STEP.txt in the run folder, the same for the same step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxbp.config import Config
from jaxbp.core import Layer
from jaxbp.data import Splits
from jaxbp.data.vocabulary import Vocabulary
from jaxbp.errors import InputError
from jaxbp.files import make_folder, overwrite
from jaxbp.training.sample import sample, text_of
from jaxbp.training.step import State

LENGTH = 200  # tokens of a sample
PROMPT = 10  # tokens of the test part that stand before it
TEMPERATURE = 0.8


@dataclass(frozen=True)
class Sampler:
    """Writes a sample every `every` steps."""

    model: Layer
    vocabulary: Vocabulary
    prompt: str
    context: int
    every: int
    seed: int
    folder: Path

    def due(self, step: int) -> bool:
        """Whether a sample follows this step."""
        return step % self.every == 0

    def write(self, state: State) -> None:
        """Writes the sample of the state, where its last step was made."""
        if not state.finite:
            return
        make_folder(self.folder)
        text = self.prompt + sample(
            self.model, state.params, self.vocabulary, self.prompt, LENGTH, TEMPERATURE, self.seed, context=self.context
        )
        overwrite(self.folder / f"{int(state.step):010d}.txt", text.encode())


def make_sampler(config: Config, model: Layer, splits: Splits, folder: Path) -> Sampler | None:
    """The sampler of a run; None where it takes no samples. Raises InputError where it cannot."""
    every = config.run.sample_every
    if every is None:
        return None
    vocabulary = text_of(model, splits.preparation, splits.classes)
    if vocabulary is None:
        raise InputError("run.sample_every needs data that are text, such as Text or Tokens, and a model of text")
    first = splits.test.x[0]
    prompt = vocabulary.decode(first[:PROMPT])
    return Sampler(model, vocabulary, prompt, len(first), every, config.run.seed, folder / "samples")
