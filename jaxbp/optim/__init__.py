"""Optimizers that optax does not have, as optax transformations, each with its config."""
from jaxbp.optim.kfac import KFAC, kfac
from jaxbp.optim.levenberg_marquardt import LevenbergMarquardt, levenberg_marquardt
from jaxbp.optim.natural_gradient import AdaptiveNaturalGradient, NaturalGradient, natural_gradient
from jaxbp.optim.newton import LBFGS, GaussNewton, Newton, newton
from jaxbp.optim.noise import noise_meter
from jaxbp.optim.objective import Objective, OptimizerConfig
from jaxbp.optim.private import Private

__all__ = ["KFAC", "LBFGS", "AdaptiveNaturalGradient", "GaussNewton", "LevenbergMarquardt", "NaturalGradient", "Newton",
           "Objective", "OptimizerConfig", "Private", "kfac", "levenberg_marquardt", "natural_gradient", "newton",
           "noise_meter"]
