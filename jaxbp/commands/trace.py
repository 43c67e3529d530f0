"""Every number of one forward and backward pass, as a table:

    jaxbp trace [FILE] [--examples=N] [--json=FILE] [--npz=FILE] [--config.KEY=VALUE ...]

The table has outputs, deltas, parameters and gradients by name, and every derivative twice: by hand and by jax.grad.
It is made in float64 from the config's initial weights and its first training examples. The files hold all numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxbp.analysis.record import record
from jaxbp.commands import cli
from jaxbp.core import Context, cast
from jaxbp.files import write_json, write_whole
from jaxbp.programs import keep_programs
from jaxbp.training.fit import batch_spec, check_fit
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        examples: how many training examples
        json: also write everything to this file
        npz: also write the arrays to this file
    """

    config: str = "xor"
    examples: Count = 1
    json: cli.OutputFile | None = None
    npz: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Traces what the words say, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    keep_programs(config)
    splits = config.load_data()
    model = config.build_model("float32")
    check_fit(config, model, splits)
    batch = splits.train.batch(slice(options.examples))
    spec = batch_spec(splits, len(batch["x"]))
    key = jax.random.key(config.run.seed)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        params, state = cast((model.init(key, spec), model.init_state(spec)), jnp.float64)
        batch = cast(jax.tree.map(jnp.asarray, batch), jnp.float64)
        table = record(model, config.loss, params, batch, Context(key, state))
    print(table)
    if options.json:
        write_json(Path(options.json), table.to_json())
    if options.npz:
        write_whole(Path(options.npz), table.to_npz())
    return 0
