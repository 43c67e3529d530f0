"""Optimizer and schedule configs. optax does the arithmetic; here are its names as typed config keys."""
from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxbp.backprop import Result
from jaxbp.core import Layer, PyTree, path_name
from jaxbp.errors import InputError, unknown
from jaxbp.losses import Loss
from jaxbp.optim.objective import Objective, OptimizerConfig
from jaxbp.optim.private import Private
from jaxbp.typed import Count, Fraction, NotNegative, Pattern, Positive, Range, Typed


@dataclass(frozen=True)
class Schedule(Typed):
    """The base of every schedule: the factor on the learning rate as a function of the step."""

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """step -> learning rate, for a run of `steps` steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        return optax.constant_schedule(learning_rate)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up from 0, then half a cosine down (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    warmup: Fraction = 0.0  # of the run's steps
    final: Annotated[float, Range(0, 1)] = 0.0  # last learning rate as a fraction of the first

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        warmup = round(self.warmup * steps)
        cosine = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), self.final)
        ramp = optax.linear_schedule(0.0, learning_rate, warmup)
        return optax.join_schedules([ramp, cosine], [warmup]) if warmup else cosine


@dataclass(frozen=True)
class OptaxSchedule(Schedule):
    """Any schedule of optax by its name. The learning rate is its peak_value, else its init_value, else its value."""

    name: str  # such as "exponential_decay"
    arguments: tuple[str, ...] = ()  # such as ("transition_steps=100", "decay_rate=0.5"), values as in Python

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_named("optax schedule", self, SCHEDULES, lambda: jnp.asarray(self.build(1.0, 1)(0)))

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        return _call(*SCHEDULES[self.name], learning_rate, self.arguments)


@dataclass(frozen=True)
class Group(Typed):
    """Parameters with a learning rate and a weight decay of their own."""

    paths: Pattern  # that a parameter's path such as '01_dense/w' matches in full
    learning_rate_factor: NotNegative = 1.0  # on the optimizer's updates; 0 freezes to the bit
    weight_decay: NotNegative = 0.0  # factor * learning_rate * weight_decay * w is taken off in every step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay and not self.learning_rate_factor:
            raise InputError(f"Group: weight_decay must be 0 where learning_rate_factor is 0, got {self.weight_decay}")

    def build(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """What becomes of the optimizer's updates in this group."""
        if not self.learning_rate_factor:  # w + -0.0 is w to the bit
            return optax.stateless_with_tree_map(lambda u, _: jnp.full_like(u, -0.0))
        scale, decay = optax.scale(self.learning_rate_factor), lambda step: -self.weight_decay * learning_rate(step)
        return optax.chain(optax.add_decayed_weights(decay), scale) if self.weight_decay else scale


@dataclass(frozen=True)
class Plateau(Typed):
    """Scales all updates down where the training loss, averaged over `steps` steps, has stopped falling."""

    steps: Count = 1  # training steps whose mean loss is one evaluation; those of an epoch, where batches are small
    factor: Annotated[float, Range(0, 1, "()")] = 0.1  # on the scale at each reduction
    patience: Count = 10  # evaluations in a row without improvement before a reduction
    rtol: Annotated[float, Range(0, 1, "()")] = 1e-4  # fraction of the best loss that counts as an improvement
    cooldown: Annotated[int, Range(0)] = 0  # evaluations after a reduction that do not count
    min_scale: Fraction = 0.0  # where the reductions end

    def build(self) -> optax.GradientTransformationExtraArgs:
        """What becomes of the updates; it takes value=loss."""
        return optax.contrib.reduce_on_plateau(self.factor, self.patience, self.rtol, cooldown=self.cooldown,
                                               accumulation_size=self.steps, min_scale=self.min_scale)


@dataclass(frozen=True)
class FirstOrder(OptimizerConfig):
    """The base of the optimizers that take a gradient and nothing else."""

    second_order: ClassVar[bool] = False
    learning_rate: Positive = 0.1  # at the peak of the schedule
    schedule: Schedule = Constant()  # how the learning rate changes over the run
    clip_value: Positive | None = None  # every entry of the gradient is cut to +-clip_value, before clip_norm
    clip_norm: Positive | None = None  # a gradient of larger norm, over all parameters, is scaled to it
    groups: tuple[Group, ...] = ()  # every parameter belongs to the first that matches; () treats all alike
    plateau: Plateau | None = None  # reduces the learning rate by the training loss
    private: Private | None = None  # clips every example's gradient, and adds noise

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups and not any(group.learning_rate_factor for group in self.groups):
            raise InputError(f"{type(self).__name__}: groups must not freeze all parameters")

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """The optimizer proper."""
        raise NotImplementedError

    def build(self, steps: int, objective: Objective | None = None) -> optax.GradientTransformationExtraArgs:
        """Noise, clipping, core, groups, plateau. The norm and the core do not see frozen parameters."""
        rate = self.schedule.build(self.learning_rate, steps)
        parts = [self.private.noise()] if self.private else []
        parts += [optax.clip(self.clip_value)] if self.clip_value else []
        parts += [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        optimizer = optax.chain(*parts, self.core(rate))
        if not all(group.learning_rate_factor for group in self.groups):
            moves = lambda params: jax.tree.map(lambda i: self.groups[i].learning_rate_factor > 0, self.check(params))
            optimizer = optax.masked(optimizer, moves)
        groups = {i: group.build(rate) for i, group in enumerate(self.groups)}
        parts = [optax.partition(groups, self.check)] if groups else []
        parts += [self.plateau.build()] if self.plateau else []
        return optax.chain(optimizer, *parts)

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        return self.private.gradient(model, loss) if self.private else super().gradient(model, loss)

    def check(self, params: PyTree) -> PyTree:
        """Like params, arrays or shapes: each one's group. Raises InputError for a parameter or a group without any."""
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        there_are = f"(there are: {', '.join(names)})"
        matches = [[i for i, group in enumerate(self.groups) if re.fullmatch(group.paths, name)] for name in names]
        if self.groups and [] in matches:
            raise InputError(f"groups: no pattern matches '{names[matches.index([])]}' {there_are}")
        first = [min(indices, default=0) for indices in matches]
        for i, group in enumerate(self.groups):
            if i not in first:
                raise InputError(f"groups: '{group.paths}' matches nothing that no earlier group has {there_are}")
        return jax.tree.unflatten(jax.tree.structure(params), first)


@dataclass(frozen=True)
class SGD(FirstOrder):
    """w -= learning_rate v with v = momentum v + g; Nesterov's form looks ahead, g + momentum v."""

    momentum: Fraction = 0.0  # of the velocity that is kept; 0 is plain gradient descent
    nesterov: bool = False  # needs momentum

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise InputError("SGD: nesterov must be False where momentum is 0, got True")

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.sgd(learning_rate, self.momentum or None, self.nesterov)


@dataclass(frozen=True)
class Adam(FirstOrder):
    """Steps of the mean gradient over the root of its mean square (Kingma & Ba 2015, arXiv 1412.6980)."""

    learning_rate: Positive = 1e-3  # at the peak of the schedule
    b1: Fraction = 0.9  # decay of the mean of gradients
    b2: Fraction = 0.999  # decay of the mean of squares
    eps: Positive = 1e-8  # added to the root of the mean square

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adam(learning_rate, self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    weight_decay: NotNegative = 1e-2  # learning_rate * weight_decay * w is taken off in every step

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Optax(FirstOrder):
    """Any optimizer of optax or optax.contrib by its name; optimizer_names() lists them."""

    name: str  # such as "lion"; those that find their own rate (prodigy, dog, ...) usually have learning_rate=1
    arguments: tuple[str, ...] = ()  # such as ("b1=0.95", "weight_decay=1e-4"), values as in Python

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_named("optax optimizer", self, OPTIMIZERS, self._one_update)
        if self.name in NO_SCHEDULE and self.schedule != Constant():
            raise InputError(f"Optax: schedule must be Constant() for {self.name}, got {self.schedule}")

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        rate = self.learning_rate if self.name in NO_SCHEDULE else learning_rate
        return _call(*OPTIMIZERS[self.name], rate, self.arguments)

    def _one_update(self) -> PyTree:
        w, optimizer = jnp.ones((2, 2)), optax.with_extra_args_support(self.core(optax.constant_schedule(1.0)))
        return optimizer.update(w, optimizer.init(w), w, value=jnp.ones(()))


def optimizer_names() -> list[str]:
    """What Optax takes."""
    return sorted(OPTIMIZERS)


def _functions(module: Any, *rates: str) -> dict[str, tuple[Callable, str]]:
    """Name -> (function, its first argument of `rates`) of what in the module has one and is not REFUSED."""
    functions = {name: value for name, value in vars(module).items() if name[0] != "_" and name not in REFUSED
                 and (inspect.isfunction(value) or isinstance(value, partial))}
    return {name: (value, rate) for rate in rates[::-1] for name, value in functions.items()
            if rate in inspect.signature(value).parameters}


REFUSED = {name: why for why, names in {  # what a step with one gradient and one value of the loss cannot run
    "has a config of its own, LBFGS": ["lbfgs"], "is the key 'private' of every optimizer here": ["dpsgd"],
    "needs the loss as a function": ["sophia"],
    "needs another optimizer inside": ["mechanize", "sam", "schedule_free"],
    "must be evaluated at other parameters than it trains": ["schedule_free_adamw", "schedule_free_sgd"],
    "has no learning rate": ["polyak_sgd"], "is replaced by optimistic_adam_v2": ["optimistic_adam"],
    "is only a part of an optimizer": ["scale_by_learning_rate", "scale_by_madgrad", "scale_by_rprop"],
    "has no argument for one learning rate": ["join_schedules", "sgdr_schedule"]}.items() for name in names}
NO_SCHEDULE = ("rprop", "sm3")  # optax takes their learning rate as a number only
OPTIMIZERS = _functions(optax, "learning_rate") | _functions(optax.contrib, "learning_rate")
SCHEDULES = _functions(optax.schedules, "peak_value", "init_value", "value")


def _call(function: Callable, rate: str, value: Any, texts: tuple[str, ...]) -> Any:
    """function(rate=value, b1=0.95) for texts such as 'b1=0.95'."""
    arguments, allowed = {rate: value}, inspect.signature(function).parameters
    for text in texts:
        name, _, literal = map(str.strip, text.partition("="))
        if name not in allowed:
            raise unknown("argument", name, allowed.keys() - arguments.keys())
        if name in arguments:
            raise InputError(f"{name} is given twice" if name != rate else f"{name} is given by the key learning_rate")
        try:
            arguments[name] = ast.literal_eval(literal)
        except (ValueError, SyntaxError, TypeError):
            raise InputError(f"{name} must be a number, a quoted text, True, None or (1, 2), got {literal}") from None
    return function(**arguments)


def _check_named(kind: str, given: OptaxSchedule | Optax, known: dict[str, Any], trial: Callable[[], PyTree]) -> None:
    """Raises InputError where the name is not known or the arguments cannot be used; the trial is traced, not run."""
    if given.name in REFUSED:
        raise InputError(f"{kind} {given.name} cannot be used: it {REFUSED[given.name]}")
    if given.name not in known:
        raise unknown(kind, given.name, known)
    try:
        jax.eval_shape(trial)
    except Exception as error:
        raise InputError(f"{kind} {given.name}({', '.join(given.arguments)}): {error}") from error
