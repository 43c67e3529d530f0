"""Public functions that bring their own derivative: arguments, a plain reference where one is needed, the verdict.

Every jax.custom_vjp and jax.custom_jvp of jax, optax, flax and equinox that runs on a CPU in float64 is here once:

- exact: the rule is the derivative of the forward, to rounding;
- approximate: to an accuracy that the source states, named at the entry (a solver's tolerance, a cast to float32);
- a departure: the rule is another thing on purpose, and the check must say so, leaf by leaf;
- refused: it raises when differentiated, on purpose.

An entry has a reference where autodiff of the forward cannot serve: a loop of unknown length, a primitive without a
rule, bits taken apart, or a point where the naive derivative is wrong and the custom rule mends it.
"""

from . import equinox_rules, flax_rules, jax_approximate, jax_departures, jax_exact, optax_rules
from .table import TABLE

__all__ = ["TABLE", "equinox_rules", "flax_rules", "jax_approximate", "jax_departures", "jax_exact", "optax_rules"]
