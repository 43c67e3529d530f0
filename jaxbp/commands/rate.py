"""The learning rate for an experiment: one short run whose rate grows, and where its loss falls fastest:

jaxbp rate [FILE] [--low=1e-5] [--high=10] [--steps=100] [--out=FILE.png] [--config.KEY=VALUE ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jaxbp.commands import cli
from jaxbp.errors import InputError
from jaxbp.programs import keep_programs
from jaxbp.training.report.curves import save_figure
from jaxbp.training.report.surfaces import rate_figure
from jaxbp.training.retrace import sweep_rates
from jaxbp.typed import Positive, Range, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        low: the first rate
        high: the last rate
        steps: of the run
        out: also draw the loss against the rate into this file
    """

    config: str = "digits_mlp"
    low: Positive = 1e-5
    high: Positive = 10.0
    steps: Annotated[int, Range(10, 100_000)] = 100
    out: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Prints the rate that the words ask for, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    if options.low >= options.high:
        raise InputError(f"--low must be below --high, got {options.low:g} and {options.high:g}")
    config = cli.override(cli.load(options.config), overrides, options)
    config.run.mesh.check_single("jaxbp rate")
    keep_programs(config)
    sweep = sweep_rates(config, config.load_data(), options.low, options.high, options.steps)
    print(f"the loss falls fastest at {sweep.steepest:.2g} and is lowest at {sweep.lowest:.2g}")
    print(f"suggestion: --config.optimizer.learning_rate={sweep.steepest:.2g}")
    if options.out:
        save_figure(rate_figure(sweep), Path(options.out))
        print(options.out)
    return 0
