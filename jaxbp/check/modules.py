"""Modules of Flax NNX, Flax Linen, Equinox and PyTorch as functions of (parameters, *inputs), checked as any other.

The parameters are moved a little from where they are: a bias that is all 0, or a scale that is all 1, would hide an
error. No library is imported here: whoever has a module of it has imported it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxbp.check.leaves import in_dtype, is_float
from jaxbp.check.problem import Problem, function_problem
from jaxbp.check.torch_functions import call_torch_module, is_torch_module, torch_module_problem
from jaxbp.core import PyTree
from jaxbp.errors import InputError

JITTER = 0.1


def module_problem(module: Any, inputs: tuple, variables: PyTree, keywords: Mapping[str, Any], seed: int) -> Problem:
    """module(*inputs, **keywords), by its parameters and its floating inputs, against itself without its custom rules.

    variables: those of a Linen module; None: drawn by its own init.
    """
    noise = np.random.default_rng(seed)
    moved = lambda p: p + JITTER * noise.normal(size=p.shape).astype(p.dtype)
    if is_torch_module(module):
        return torch_module_problem(module, inputs, keywords, moved)
    params, call = _parts(module, inputs, variables, keywords, seed)
    call.__name__ = type(module).__name__
    call.__signature__ = _signature(module, inputs)
    return function_problem(call, jax.tree.map(lambda p: moved(p) if is_float(p) else p, params), *inputs)


def call_module(module: Any, inputs: tuple, variables: PyTree, keywords: Mapping[str, Any], seed: int) -> Any:
    """What the module gives."""
    if is_torch_module(module):
        return call_torch_module(module, inputs, keywords)
    params, call = _parts(module, inputs, variables, keywords, seed)
    return call(params, *inputs)


def _parts(module: Any, inputs: tuple, variables: PyTree, keywords: Mapping[str, Any], seed: int) -> tuple:
    """(the parameters, a function of (parameters, *inputs)) of a module of one of the libraries."""
    if _is(module, "flax.nnx", "Module"):
        return _nnx(module, keywords)
    if _is(module, "flax.linen", "Module"):
        return _linen(module, inputs, variables, keywords, seed)
    if _is(module, "equinox", "Module"):
        return _equinox(module, keywords)
    raise InputError(
        f"a module of Flax NNX, Flax Linen, Equinox or PyTorch is needed, got {type(module).__name__} "
        "(check_function checks a function, check_layer a jaxbp.Layer)"
    )


def _is(module: Any, library: str, kind: str) -> bool:
    return library in sys.modules and isinstance(module, getattr(sys.modules[library], kind))


def _nnx(module: Any, keywords: Mapping[str, Any]) -> tuple:
    """Parameters as plain dicts; the rest of the state, random streams included, is the same at every call."""
    nnx = sys.modules["flax.nnx"]
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    structure = jax.tree.structure(state)

    def call(params: PyTree, *inputs: Any) -> Any:
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, _alike(rest, params), copy=True)(*inputs, **keywords)

    return nnx.to_pure_dict(state), call


def _linen(module: Any, inputs: tuple, variables: PyTree, keywords: Mapping[str, Any], seed: int) -> tuple:
    key = jax.random.key(seed)
    if variables is None:
        variables = module.init(key, *inputs, **keywords)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def call(params: PyTree, *inputs: Any) -> Any:
        together = {"params": params} | _alike(rest, params)
        return module.apply(together, *inputs, rngs={"params": key}, mutable=list(rest), **keywords)[0]

    return variables["params"], call


def _equinox(module: Any, keywords: Mapping[str, Any]) -> tuple:
    equinox = sys.modules["equinox"]
    params, rest = equinox.partition(module, equinox.is_inexact_array)
    return params, lambda params, *inputs: equinox.combine(params, _alike(rest, params))(*inputs, **keywords)


def _alike(rest: PyTree, params: PyTree) -> PyTree:
    """The rest of a module's state (running statistics) in the precision of its parameters."""
    return in_dtype(rest, jax.tree.leaves(params)[0].dtype)


def _signature(module: Any, inputs: tuple) -> inspect.Signature:
    """(params, the module's own names of its inputs)."""
    names = [name for name in inspect.signature(type(module).__call__).parameters if name != "self"]
    names = names if len(names) >= len(inputs) else [f"input{i}" for i in range(len(inputs))]
    parameter = partial(inspect.Parameter, kind=inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature([parameter("params"), *map(parameter, names[: len(inputs)])])
