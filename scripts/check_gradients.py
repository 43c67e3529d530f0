"""Proves an experiment's gradient, leaf by leaf, in float64:

    python scripts/check_gradients.py --config=FILE [--level=full] [--json=FILE] [--config.KEY=VALUE ...]

Against jax.grad of the same forward, and against central differences; what is wrong gets its likely cause. Exit
status 1 if any leaf fails. --level=full adds other precisions, batches, transformations and hard points.
"""

from pathlib import Path

import jax
from absl import flags

from jaxbp.check import check_model
from jaxbp.commands import cli
from jaxbp.core import Context
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.train.fit import batch_spec, check_fit

ROWS = 7  # examples in the batch that is checked

flags.DEFINE_string("config", "configs/digits_mlp.py", "the experiment")
flags.DEFINE_enum("level", "default", ["default", "full"], "how much is asked")
flags.DEFINE_string("json", None, "also write the table to this file")


def main(words: list[str]) -> int:
    config = cli.config(words)
    splits, model = config.data.load(), config.model.build()
    check_fit(config, model, splits)
    rows = min(ROWS, len(splits.train))
    key, spec = jax.random.key(config.run.seed), batch_spec(splits, rows)
    params, ctx = model.init(key, spec), Context(key, model.init_state(spec))
    part = splits.train.take(slice(rows))
    batch = {"x": jax.numpy.asarray(part.x), "y": jax.numpy.asarray(part.y), "weight": jax.numpy.full(rows, 1 / rows)}
    report = check_model(model, config.loss, params, batch, ctx, config.objective(spec).penalties, flags.FLAGS.level)
    print(report)
    if flags.FLAGS.json:
        write_json(Path(flags.FLAGS.json), {"machine": machine(), **report.to_json()})
    return 0 if report.passed else 1


if __name__ == "__main__":
    cli.run(main)
