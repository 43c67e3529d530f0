"""Every number of one forward and backward pass, as a table:

    python scripts/trace.py --config=FILE [--examples=N] [--json=FILE] [--npz=FILE] [--config.KEY=VALUE ...]

Outputs, deltas, parameters and gradients by name, the derivatives by hand and by jax.grad. Of the config's initial
weights and its first training examples, in float64; the files hold all numbers.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from jaxbp.analysis.record import record
from jaxbp.commands import cli
from jaxbp.core import Context, cast
from jaxbp.files import write_json, write_whole
from jaxbp.train.fit import batch_spec, check_fit

flags.DEFINE_string("config", "configs/xor.py", "the experiment")
flags.DEFINE_integer("examples", 1, "how many training examples", lower_bound=1)
flags.DEFINE_string("json", None, "also write everything to this file")
flags.DEFINE_string("npz", None, "also write the arrays to this file")


def main(words: list[str]) -> int:
    config = cli.config(words)
    splits, model = config.data.load(), config.model.build()
    check_fit(config, model, splits)
    part = splits.train.take(slice(flags.FLAGS.examples))
    key, spec = jax.random.key(config.run.seed), batch_spec(splits, len(part))
    weight = part.counting() / part.counting().sum()
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        batch = cast({"x": jnp.asarray(part.x), "y": jnp.asarray(part.y), "weight": jnp.asarray(weight)}, jnp.float64)
        params, state = cast((model.init(key, spec), model.init_state(spec)), jnp.float64)
        table = record(model, config.loss, params, batch, Context(key, state))
    print(table)
    if flags.FLAGS.json:
        write_json(Path(flags.FLAGS.json), table.to_json())
    if flags.FLAGS.npz:
        write_whole(Path(flags.FLAGS.npz), table.to_npz())
    return 0


if __name__ == "__main__":
    cli.run(main)
