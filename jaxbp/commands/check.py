"""Checks an experiment's gradient, leaf by leaf, in float64:

    jaxbp check [FILE] [--level=full] [--json=FILE] [--config.KEY=VALUE ...]

It is compared with jax.grad of the same forward and with central differences. The report names the likely cause of a
wrong leaf, and the exit status is then 1. --level=full also checks other precisions, batches, transformations and hard
points.

    jaxbp check --function=FILE:NAME ...

checks code in a file, as python -m jaxbp.check does; see python -m jaxbp.check --help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxbp.check import Report, check_model
from jaxbp.check import __main__ as check_code
from jaxbp.check.judge import Level
from jaxbp.commands import cli
from jaxbp.config import Config
from jaxbp.core import Context
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.programs import keep_programs
from jaxbp.training.fit import batch_spec, check_fit
from jaxbp.typed import Typed

ROWS = 7  # examples in the batch that is checked


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        level: how much is checked
        json: also write the table to this file
    """

    config: str = "digits_mlp"
    level: Level = "default"
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Checks what the words say, and returns the exit status: 1 for a wrong gradient, 2 for one not checked."""
    if any(word.partition("=")[0] in [f"--{name}" for name in check_code.FORM] for word in words):
        return check_code.main(words)
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    keep_programs(config)
    report = check_config(config, options.level)
    print(report)
    if options.json:
        write_json(Path(options.json), {"machine": machine(), **report.to_json()})
    return report.exit_status


def check_config(config: Config, level: Level = "default") -> Report:
    """The report on the gradient of a config's initial weights. Raises InputError where its parts do not fit."""
    splits = config.load_data()
    model = config.build_model("float32")
    check_fit(config, model, splits)
    batch = splits.train.batch(slice(ROWS))
    spec = batch_spec(splits, len(batch["x"]))
    key = jax.random.key(config.run.seed)
    params = model.init(key, spec)
    ctx = Context(key, model.init_state(spec))
    return check_model(
        model, config.loss, params, jax.tree.map(jax.numpy.asarray, batch), ctx, config.objective(spec).penalties, level
    )
