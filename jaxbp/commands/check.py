"""Checks an experiment's gradient, leaf by leaf, in float64:

    jaxbp check [FILE] [--level=full] [--json=FILE] [--config.KEY=VALUE ...]

It is compared with jax.grad of the same forward and with central differences. The report names the likely cause of a
wrong leaf, and the exit status is then 1. --level=full also checks other precisions, batches, transformations and hard
points. --credit says how far the credit rule of the config (--config.credit=NAME) departs from the gradient.

    jaxbp check --function=FILE:NAME ...

checks code in a file, as python -m jaxbp.check does; see python -m jaxbp.check --help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.check import Report, check_model
from jaxbp.check import __main__ as check_code
from jaxbp.check.judge import Level
from jaxbp.commands import cli
from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree
from jaxbp.credit.alignment import Alignment, make_alignments, table
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.programs import keep_programs
from jaxbp.training.fit import check_fit
from jaxbp.typed import Typed

ROWS = 7  # examples in the batch that is checked


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        level: how much is checked
        json: also write the table to this file
        credit: also say how far the direction of config.credit is from the gradient
    """

    config: str = "digits_mlp"
    level: Level = "default"
    json: cli.OutputFile | None = None
    credit: bool = False


def main(words: Sequence[str]) -> int:
    """Checks what the words say, and returns the exit status: 1 for a wrong gradient, 2 for one not checked."""
    if any(word.partition("=")[0] in [f"--{name}" for name in check_code.FORM] for word in words):
        return check_code.main(words)
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    keep_programs(config)
    report = check_config(config, options.level)
    print(report)
    facts: dict[str, Any] = {"machine": machine(), **report.to_json()}
    if options.credit:
        departure = alignments_of(config)
        print(f"\n{table(config.credit, departure)}")
        facts["credit"] = {path: figures._asdict() for path, figures in departure.items()}
    if options.json:
        write_json(Path(options.json), facts)
    return report.exit_status


def first_batch(config: Config) -> tuple[Layer, Batch, PyTree, Context]:
    """The model, a batch of ROWS, the initial weights and their context. Raises InputError where parts do not fit."""
    splits = config.load_data()
    model = config.build_model("float32")
    check_fit(config, model, splits)
    batch = jax.tree.map(jnp.asarray, splits.train.batch(slice(ROWS)))
    key = jax.random.key(config.run.seed)
    return model, batch, model.init(key, batch["x"]), Context(key, model.init_state(batch["x"]))


def check_config(config: Config, level: Level = "default") -> Report:
    """The report on the gradient of a config's initial weights. Raises InputError where its parts do not fit."""
    model, batch, params, ctx = first_batch(config)
    return check_model(model, config.loss, params, batch, ctx, config.objective(batch["x"]).penalties, level)


def alignments_of(config: Config) -> dict[str, Alignment]:
    """{path of a parameter: how far the credit rule's first direction is from the gradient}."""
    model, batch, params, ctx = first_batch(config)
    kept = config.credit.init_state(ctx.draw("noise"), params, model, batch["x"])
    alignments = make_alignments(config.credit, model, config.loss)
    return alignments(params, ctx.state, kept, batch, ctx.draw("augment"))
