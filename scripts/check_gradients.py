"""Proves an experiment's gradient, leaf by leaf, in float64:

    python scripts/check_gradients.py --config=FILE [--json=FILE] [--config.KEY=VALUE ...]

Against jax.grad of the same forward, and against central differences. Exit status 1 if any leaf fails.
"""
from pathlib import Path

import cli
import jax
from absl import flags

from jaxbp.check import check_gradients
from jaxbp.core import Context
from jaxbp.train.files import write_json
from jaxbp.train.loop import batch_spec, check_fit, penalties_of
from jaxbp.train.provenance import machine

ROWS = 7  # examples in the batch that is checked

flags.DEFINE_string("config", "configs/digits_mlp.py", "the experiment")
flags.DEFINE_string("json", None, "also write the table to this file")


def main(words: list[str]) -> int:
    config = cli.config(words)
    jax.config.update("jax_enable_x64", True)
    splits, model = config.data.load(), config.model.build()
    check_fit(config, model, splits)
    rows = min(ROWS, len(splits.train))
    key, spec = jax.random.key(config.run.seed), batch_spec(splits, rows)
    params, ctx = model.init(key, spec), Context(key, model.init_state(spec))
    part = splits.train.take(slice(rows))
    batch = {"x": jax.numpy.asarray(part.x), "y": jax.numpy.asarray(part.y), "weight": jax.numpy.full(rows, 1 / rows)}
    leaves = check_gradients(model, config.loss, params, batch, ctx, penalties_of(config))
    print(f"{'leaf':24s} {'shape':14s} {'jax.grad':>10s} {'differences':>12s}  verdict")
    for leaf in leaves:
        print(f"{leaf.path:24s} {leaf.shape!s:14s} {leaf.autodiff_error:10.1e} {leaf.difference_error:12.1e}  "
              f"{'pass' if leaf.passed else 'FAIL'}")
    if flags.FLAGS.json:
        columns = ("path", "shape", "autodiff_error", "difference_error", "passed")
        table = [{name: getattr(leaf, name) for name in columns} for leaf in leaves]
        write_json(Path(flags.FLAGS.json), {"machine": machine(), "rows": table})
    failed = [leaf.path for leaf in leaves if not leaf.passed]
    wrong = f"; wrong: {', '.join(failed)}" if failed else ""
    print(f"{len(leaves) - len(failed)} of {len(leaves)} leaves pass{wrong}")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
