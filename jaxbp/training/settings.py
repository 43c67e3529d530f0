"""The kind of random keys that a run was made with, which is a setting of JAX: its checkpoints hold one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from jaxbp.errors import InputError

OPTION = "jax_default_prng_impl"


def check_random_keys(machine: Mapping[str, Any]) -> None:
    """Raises InputError where this process makes random keys of another kind than a run whose machine() is given."""
    kind = kind_of(machine)
    ours = getattr(jax.config, OPTION)
    if kind and kind != ours:
        raise InputError(
            f"the run's random keys are of the kind {kind}, and this process makes {ours}: "
            f"set {OPTION.upper()}={kind} in the environment"
        )


def random_keys_of(machine: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Within it random keys are of the kind of a run whose machine() is given."""
    kind = kind_of(machine)
    return jax.default_prng_impl(kind) if kind else nullcontext()


def kind_of(machine: Mapping[str, Any]) -> str | None:
    """The kind of random keys; None for a run of a version that did not record it."""
    return machine.get("settings", {}).get(OPTION)
