"""The gradient check of an experiment: its model, loss and penalties, on its first training examples."""

from __future__ import annotations

import jax

from jaxbp.check import Report, check_model
from jaxbp.check.judge import Level
from jaxbp.config import Config
from jaxbp.core import Context
from jaxbp.train.fit import batch_spec, check_fit

ROWS = 7  # examples in the batch that is checked


def check_config(config: Config, level: Level = "default") -> Report:
    """The report on the gradient of a config's initial weights. Raises InputError where its parts do not fit."""
    splits = config.data.load()
    model = config.model.build()
    check_fit(config, model, splits)
    batch = splits.train.batch(slice(ROWS))
    spec = batch_spec(splits, len(batch["x"]))
    key = jax.random.key(config.run.seed)
    params = model.init(key, spec)
    ctx = Context(key, model.init_state(spec))
    return check_model(
        model, config.loss, params, jax.tree.map(jax.numpy.asarray, batch), ctx, config.objective(spec).penalties, level
    )
