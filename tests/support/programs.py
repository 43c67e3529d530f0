"""Compiled programs as a user gets them, for tests of their bytes, operations and form."""

import jax


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program with the emitters of fusions that conftest turns off for the speed of compilation."""
    return lowered.compile({"xla_cpu_use_fusion_emitters": True})
