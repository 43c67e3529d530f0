"""The gradient check: the error measure, and a whole model's gradient against jax.grad and finite differences."""
from jaxbp.check.compare import leaf_errors, worst
from jaxbp.check.gradients import Leaf, check_gradients
from jaxbp.check.oracle import autodiff

__all__ = ["Leaf", "autodiff", "check_gradients", "leaf_errors", "worst"]
