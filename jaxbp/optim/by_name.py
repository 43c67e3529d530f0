"""Any optimizer or schedule of optax by its name, with its arguments as texts of a config."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxbp.core import PyTree
from jaxbp.errors import InputError, unknown
from jaxbp.optim.first_order import FirstOrder
from jaxbp.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class OptaxSchedule(Schedule):
    """Any schedule of optax by its name. The learning rate is its peak_value, else its init_value, else its value.

    Args:
        name: such as "exponential_decay"
        arguments: such as ("transition_steps=100", "decay_rate=0.5"), values as in Python
    """

    name: str
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_named("optax schedule", self, SCHEDULES, lambda: jnp.asarray(self.build(1.0, 1)(0)))

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        return _call(*SCHEDULES[self.name], learning_rate, self.arguments)


@dataclass(frozen=True, kw_only=True)
class Optax(FirstOrder):
    """Any optimizer of optax or optax.contrib by its name; optimizer_names() lists them.

    Args:
        name: such as "lion"; those that find their own rate (prodigy, dog, ...) usually have learning_rate=1
        arguments: such as ("b1=0.95", "weight_decay=1e-4"), values as in Python
    """

    name: str
    arguments: tuple[str, ...] = ()

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
    functions = {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and name not in REFUSED and (inspect.isfunction(value) or isinstance(value, partial))
    }
    return {
        name: (value, rate)
        for rate in rates[::-1]
        for name, value in functions.items()
        if rate in inspect.signature(value).parameters
    }


REFUSED = {
    name: why
    for why, names in {  # what a step with one gradient and one value of the loss cannot run
        "has a config of its own, LBFGS": ["lbfgs"],
        "is the key 'private' of every optimizer here": ["dpsgd"],
        "needs the loss as a function": ["sophia"],
        "needs another optimizer inside": ["mechanize", "sam", "schedule_free"],
        "must be evaluated at other parameters than it trains": ["schedule_free_adamw", "schedule_free_sgd"],
        "has no learning rate": ["polyak_sgd"],
        "is replaced by optimistic_adam_v2": ["optimistic_adam"],
        "is only a part of an optimizer": ["scale_by_learning_rate", "scale_by_madgrad", "scale_by_rprop"],
        "has no argument for one learning rate": ["join_schedules", "sgdr_schedule"],
    }.items()
    for name in names
}
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
