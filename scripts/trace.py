"""Every number of one forward and backward pass, as a table:

    python scripts/trace.py --config=FILE [--examples=N] [--json=FILE] [--npz=FILE] [--config.KEY=VALUE ...]

The table has outputs, deltas, parameters and gradients by name, and every derivative twice: by hand and by jax.grad.
It is made in float64 from the config's initial weights and its first training examples. The files hold all numbers.
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
    splits = config.data.load()
    model = config.model.build()
    check_fit(config, model, splits)
    batch = splits.train.batch(slice(flags.FLAGS.examples))
    spec = batch_spec(splits, len(batch["x"]))
    key = jax.random.key(config.run.seed)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        params, state = cast((model.init(key, spec), model.init_state(spec)), jnp.float64)
        batch = cast(jax.tree.map(jnp.asarray, batch), jnp.float64)
        table = record(model, config.loss, params, batch, Context(key, state))
    print(table)
    if flags.FLAGS.json:
        write_json(Path(flags.FLAGS.json), table.to_json())
    if flags.FLAGS.npz:
        write_whole(Path(flags.FLAGS.npz), table.to_npz())
    return 0


if __name__ == "__main__":
    cli.run(main)
