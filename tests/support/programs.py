"""Compiled programs as a user gets them, for tests of their bytes, operations and form."""

import jax
from jax._src import pjit
from jax._src.interpreters import pxla


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program with the emitters of fusions that conftest turns off for the speed of compilation."""
    return lowered.compile({"xla_cpu_use_fusion_emitters": True})


def forget_modules() -> None:
    """Lets go of the modules that compiled programs were made from; the programs stay.

    JAX keeps 2048 of each, every one in an MLIR context of its own, and each context that lives makes every further
    compilation slower: by a fifth after 2000 programs.
    """
    for kept in (pjit._pjit_lower, pxla._cached_lowering_to_hlo, pxla._cached_compilation):
        kept.cache_clear()
