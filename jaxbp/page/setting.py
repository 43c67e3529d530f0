"""A config's experiment at its start, in float64: what `jaxbp trace` looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree, cast, output_spec
from jaxbp.credit.config import Backpropagation, Swept
from jaxbp.errors import InputError
from jaxbp.losses import Penalty
from jaxbp.training.fit import batch_spec, check_fit


@dataclass(frozen=True, eq=False)
class Setting:
    """A model with its initial weights and the first examples of the training part, all in float64."""

    config: Config
    model: Layer
    params: PyTree
    batch: Batch
    ctx: Context
    kept: PyTree  # by the credit rule, such as backward weights; None of backpropagation
    spec: Any  # shape and dtype of the batch's inputs
    steps: int  # of the whole run, which a schedule may depend on
    classes: tuple[str, ...]  # () where the targets are numbers

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer of the run."""
        return self.config.build_optimizer(self.steps, self.spec)

    @property
    def outputs(self) -> int:
        """Units of the last layer."""
        return output_spec(self.model, self.spec).shape[-1]

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """What the config adds to the loss."""
        return self.config.objective(self.spec).penalties

    @property
    def rate(self) -> float:
        """The optimizer's learning rate; 0 where it has none."""
        return getattr(self.config.optimizer, "learning_rate", 0.0)


def setting(config: Config, examples: int = 1) -> Setting:
    """The experiment on its first `examples` training examples, or on all where there are fewer.

    Call it and use what it gives under jax.enable_x64(True). Raises InputError where the config's parts do not fit, and
    for a credit rule whose direction is not made by a sweep back through the layers.
    """
    rule = config.credit
    if not isinstance(rule, Swept | Backpropagation):
        raise InputError(
            f"credit={type(rule).__name__} sends no delta back from layer to layer, so that there is none to trace; "
            "jaxbp check --credit compares its direction with the gradient"
        )
    splits = config.load_data()
    model = config.build_model("float32")
    check_fit(config, model, splits)
    part = splits.train.take(slice(examples))
    counting = part.counting().astype(np.float64)  # 1/3 in float32 would be seen
    batch = {"x": part.x, "y": part.y, "weight": counting / (counting.sum() or 1)}
    spec = batch_spec(splits, len(batch["x"]))
    key = jax.random.key(config.run.seed)
    params, state = cast((model.init(key, spec), model.init_state(spec)), jnp.float64)
    batch = cast(jax.tree.map(jnp.asarray, batch), jnp.float64)
    kept = rule.init_state(key, params, model, spec)
    steps = config.run.epochs * -(-len(splits.train) // (config.run.batch_size or len(splits.train)))
    return Setting(config, model, params, batch, Context(key, state), kept, spec, steps, splits.classes or ())
