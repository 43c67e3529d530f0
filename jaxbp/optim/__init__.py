"""Optimizers: those of optax as typed configs, and those that optax does not have, each a transformation and a config.

`KFAC` is a config; `kfac`, in lower case, is the optax transformation for a training loop of your own.
"""

from jaxbp.optim.by_name import Optax, OptaxSchedule, optimizer_names
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.first_order import SGD, Adam, AdamW, FirstOrder
from jaxbp.optim.gain import GainBackpropagation
from jaxbp.optim.gradient_free import (
    SPSA,
    FiniteDifferences,
    Genetic,
    GradientFree,
    ParticleSwarm,
    RandomSearch,
    SignSearch,
)
from jaxbp.optim.groups import Group, Plateau
from jaxbp.optim.kfac import KFAC, kfac
from jaxbp.optim.levenberg_marquardt import LevenbergMarquardt, levenberg_marquardt
from jaxbp.optim.manhattan import BatchManhattan
from jaxbp.optim.natural_gradient import AdaptiveNaturalGradient, NaturalGradient, natural_gradient
from jaxbp.optim.newton import LBFGS, GaussNewton, Newton, newton
from jaxbp.optim.noise import noise_meter
from jaxbp.optim.objective import Objective
from jaxbp.optim.one_layer import Adaline, DeltaRule, Perceptron
from jaxbp.optim.private import Private
from jaxbp.optim.schedules import Constant, Cosine, Schedule
from jaxbp.optim.variable_rate import VariableRate

__all__ = [
    "KFAC",
    "LBFGS",
    "SGD",
    "SPSA",
    "Adaline",
    "Adam",
    "AdamW",
    "AdaptiveNaturalGradient",
    "BatchManhattan",
    "Constant",
    "Cosine",
    "DeltaRule",
    "FiniteDifferences",
    "FirstOrder",
    "GainBackpropagation",
    "GaussNewton",
    "Genetic",
    "GradientFree",
    "Group",
    "LevenbergMarquardt",
    "NaturalGradient",
    "Newton",
    "Objective",
    "Optax",
    "OptaxSchedule",
    "OptimizerConfig",
    "ParticleSwarm",
    "Perceptron",
    "Plateau",
    "Private",
    "RandomSearch",
    "Schedule",
    "SignSearch",
    "VariableRate",
    "kfac",
    "levenberg_marquardt",
    "natural_gradient",
    "newton",
    "noise_meter",
    "optimizer_names",
]
