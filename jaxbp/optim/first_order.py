"""Optimizers that take a gradient and nothing else: SGD, Adam, AdamW. optax does the arithmetic."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import optax

from jaxbp.backprop import Result
from jaxbp.core import Layer, PyTree, path_name
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.groups import Group, Plateau
from jaxbp.optim.objective import Objective
from jaxbp.optim.private import Private
from jaxbp.optim.schedules import Constant, Schedule
from jaxbp.typed import Fraction, NotNegative, Positive


@dataclass(frozen=True)
class FirstOrder(OptimizerConfig):
    """The base of the optimizers that take a gradient and nothing else.

    Args:
        learning_rate: at the peak of the schedule
        schedule: how the learning rate changes over the run
        clip_value: every entry of the gradient is cut to +-clip_value, before clip_norm
        clip_norm: a gradient of larger norm, over all parameters, is scaled down to it
        groups: every parameter belongs to the first that matches; () treats all alike
        plateau: reduces the learning rate when the training loss stops falling
        private: clips every example's gradient and adds noise
    """

    gradient_alone: ClassVar[bool] = True
    learning_rate: Positive = 0.1
    schedule: Schedule = Constant()
    clip_value: Positive | None = None
    clip_norm: Positive | None = None
    groups: tuple[Group, ...] = ()
    plateau: Plateau | None = None
    private: Private | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups and not any(group.learning_rate_factor for group in self.groups):
            raise InputError(f"{type(self).__name__}: groups must not freeze all parameters")

    @property
    def is_private(self) -> bool:
        return self.private is not None

    @abstractmethod
    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """The optimizer itself, without clipping, groups and plateau."""
        raise NotImplementedError

    def build(self, steps: int, objective: Objective | None = None) -> optax.GradientTransformationExtraArgs:
        """Noise, clipping, core, groups, plateau. The norm and the core do not see frozen parameters."""
        rate = self.schedule.build(self.learning_rate, steps)
        before = [self.private.noise()] if self.private else []
        before += [optax.clip(self.clip_value)] if self.clip_value else []
        before += [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        optimizer = optax.chain(*before, self.core(rate))
        if not all(group.learning_rate_factor for group in self.groups):
            optimizer = optax.masked(optimizer, self.trained)
        groups = {i: group.build(rate) for i, group in enumerate(self.groups)}
        after = [optax.partition(groups, self.group_of)] if groups else []
        after += [self.plateau.build()] if self.plateau else []
        return optax.chain(optimizer, *after)

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        return self.private.gradient(model, loss) if self.private else super().gradient(model, loss)

    def check(self, params: PyTree) -> None:
        self.group_of(params)

    def group_of(self, params: PyTree) -> PyTree:
        """Like params, arrays or shapes: the number of each one's group, the first that matches its path.

        Raises InputError for a parameter that matches no group, and for a group without a parameter.
        """
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        listed = f"(there are: {', '.join(names)})"
        matches = [[i for i, group in enumerate(self.groups) if re.fullmatch(group.paths, name)] for name in names]
        if self.groups and [] in matches:
            raise InputError(f"groups: no pattern matches '{names[matches.index([])]}' {listed}")
        numbers = [min(indices, default=0) for indices in matches]
        for i, group in enumerate(self.groups):
            if i not in numbers:
                raise InputError(f"groups: '{group.paths}' matches nothing that no earlier group has {listed}")
        return jax.tree.unflatten(jax.tree.structure(params), numbers)

    def trained(self, params: PyTree) -> PyTree:
        """Like params: False where the group is frozen."""
        return jax.tree.map(lambda i: self.groups[i].learning_rate_factor > 0, self.group_of(params))


@dataclass(frozen=True)
class SGD(FirstOrder):
    """w -= learning_rate v with v = momentum v + g; Nesterov's form looks ahead, g + momentum v.

    Args:
        momentum: fraction of the velocity that a step keeps; 0 is plain gradient descent
        nesterov: needs momentum
    """

    momentum: Fraction = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise InputError("SGD: nesterov must be False where momentum is 0, got True")

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.sgd(learning_rate, self.momentum or None, self.nesterov)


@dataclass(frozen=True)
class Adam(FirstOrder):
    """Steps of the mean gradient over the root of its mean square (Kingma & Ba 2015, arXiv 1412.6980).

    Args:
        learning_rate: at the peak of the schedule
        b1: decay of the mean of gradients
        b2: decay of the mean of squares
        eps: added to the root of the mean square
    """

    learning_rate: Positive = 1e-3
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adam(learning_rate, self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101).

    Args:
        weight_decay: every step subtracts learning_rate * weight_decay * w
    """

    weight_decay: NotNegative = 1e-2

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)
