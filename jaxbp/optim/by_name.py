"""Any optimizer or schedule of optax by its name, with its arguments as texts in a config."""

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
    """Any schedule of optax by its name. Its peak_value, else its init_value, else its value is the learning rate.

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
        name: such as "lion"; those that adapt their own rate (prodigy, dog, ...) usually take learning_rate=1
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
        w = jnp.ones((2, 2))
        optimizer = optax.with_extra_args_support(self.core(optax.constant_schedule(1.0)))
        return optimizer.update(w, optimizer.init(w), w, value=jnp.ones(()))


def optimizer_names() -> list[str]:
    """The names that Optax accepts, sorted."""
    return sorted(OPTIMIZERS)


def _functions(module: Any, *rates: str) -> dict[str, tuple[Callable, str]]:
    """Name -> (function, the first of `rates` among its arguments), for the functions of the module that have one."""
    functions = {}
    for name, function in vars(module).items():
        is_function = inspect.isfunction(function) or isinstance(function, partial)
        if name.startswith("_") or name in REFUSED or not is_function:
            continue
        for rate in rates:
            if rate in inspect.signature(function).parameters:
                functions[name] = function, rate
                break
    return functions


REFUSED = {  # name: why it cannot run in a step that has one gradient and one value of the loss
    "dpsgd": "is the key 'private' of every optimizer here",
    "join_schedules": "has no argument for one learning rate",
    "lbfgs": "has a config of its own, LBFGS",
    "mechanize": "needs another optimizer inside",
    "optimistic_adam": "is replaced by optimistic_adam_v2",
    "polyak_sgd": "has no learning rate",
    "sam": "needs another optimizer inside",
    "scale_by_learning_rate": "is only a part of an optimizer",
    "scale_by_madgrad": "is only a part of an optimizer",
    "scale_by_rprop": "is only a part of an optimizer",
    "schedule_free": "needs another optimizer inside",
    "schedule_free_adamw": "must be evaluated at other parameters than it trains",
    "schedule_free_sgd": "must be evaluated at other parameters than it trains",
    "sgdr_schedule": "has no argument for one learning rate",
    "sophia": "needs the loss as a function",
}
NO_SCHEDULE = ("rprop", "sm3")  # optax takes their learning rate as a number only
OPTIMIZERS = _functions(optax, "learning_rate") | _functions(optax.contrib, "learning_rate")
SCHEDULES = _functions(optax.schedules, "peak_value", "init_value", "value")


BAD_ARGUMENTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what optax and JAX then raise


def _call(function: Callable, rate: str, value: Any, texts: tuple[str, ...]) -> Any:
    """function(rate=value, b1=0.95) for texts such as 'b1=0.95'."""
    arguments = {rate: value}
    allowed = inspect.signature(function).parameters
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


def _check_named(kind: str, config: OptaxSchedule | Optax, known: dict[str, Any], trial: Callable[[], PyTree]) -> None:
    """Raises InputError for an unknown name, and for arguments with which `trial` cannot be traced; it is not run."""
    if config.name in REFUSED:
        raise InputError(f"{kind} {config.name} cannot be used: it {REFUSED[config.name]}")
    if config.name not in known:
        raise unknown(kind, config.name, known)
    try:
        jax.eval_shape(trial)
    except BAD_ARGUMENTS as error:
        raise InputError(f"{kind} {config.name}({', '.join(config.arguments)}): {error}") from error
