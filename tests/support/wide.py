"""Runs in float64: python -m tests.support.wide MODULE WORDS is the module as a program, whose runs compute so.

Two programs that mean the same differ there by the last digits, and where float32 would take another turn they do not.
"""

import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import jax
import numpy as np

from jaxbp.config import Config
from jaxbp.core import Batch, cast
from jaxbp.data import Splits
from jaxbp.training import loop
from jaxbp.training.step import State

initial_state, training_step, load_data = loop.initial_state, loop.training_step, Config.load_data


def wide_state(*setting: object) -> State:
    """The initial state of a run, from the weights that float32 has."""
    return cast(initial_state(*setting), "float64")


def wide_step(*setting: object) -> Callable[[State, Batch], State]:
    """The step of a run."""
    step = training_step(*setting)
    return lambda state, batch: step(state, cast(batch, "float64"))


def wide_data(config: Config) -> Splits:
    """The data of a run, from the inputs that float32 has."""
    wide = lambda part: part and replace(part, x=part.x.astype(np.float64))
    splits = load_data(config)
    return replace(splits, train=wide(splits.train), validation=wide(splits.validation), test=wide(splits.test))


@contextmanager
def float64_runs() -> Iterator[None]:
    """Runs that begin here, on data of numbers, compute in float64."""
    with (
        jax.enable_x64(True),
        mock.patch.object(loop, "initial_state", wide_state),
        mock.patch.object(loop, "training_step", wide_step),
        mock.patch.object(Config, "load_data", wide_data),
    ):
        yield


if __name__ == "__main__":
    module, *sys.argv[1:] = sys.argv[1:]
    jax.config.update("jax_enable_x64", True)  # in all threads
    with float64_runs():
        runpy.run_module(module, run_name="__main__", alter_sys=True)
