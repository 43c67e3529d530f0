"""Credit assignment other than the reverse sweep of backpropagation. Every rule says what it is exact for."""

from jaxbp.credit.alignment import Alignment, make_alignments
from jaxbp.credit.bidirectional import Bidirectional
from jaxbp.credit.config import Backpropagation, Carried, Credit, carrying
from jaxbp.credit.direct import DirectFeedbackAlignment
from jaxbp.credit.eligibility import EProp
from jaxbp.credit.equilibrium import ContrastiveHebbian, EquilibriumPropagation
from jaxbp.credit.feedback import FeedbackAlignment, KolenPollack, SignSymmetric
from jaxbp.credit.forward_forward import ForwardForward
from jaxbp.credit.forward_gradient import ForwardGradient
from jaxbp.credit.mirror import WeightMirror
from jaxbp.credit.noise import NoisyEM
from jaxbp.credit.predictive import PredictiveCoding
from jaxbp.credit.real_time import RealTime
from jaxbp.credit.relax import NotSettled, Relaxer, Settled
from jaxbp.credit.rtrl import RealTimeRecurrentLearning
from jaxbp.credit.split import ErrorSplit
from jaxbp.credit.steady import FeedbackNet, SteadyState
from jaxbp.credit.steady_cell import SteadyCell
from jaxbp.credit.targets import DifferenceTargetPropagation

__all__ = [
    "Alignment",
    "Backpropagation",
    "Bidirectional",
    "Carried",
    "ContrastiveHebbian",
    "Credit",
    "DifferenceTargetPropagation",
    "DirectFeedbackAlignment",
    "EProp",
    "EquilibriumPropagation",
    "ErrorSplit",
    "FeedbackAlignment",
    "FeedbackNet",
    "ForwardForward",
    "ForwardGradient",
    "KolenPollack",
    "NoisyEM",
    "NotSettled",
    "PredictiveCoding",
    "RealTime",
    "RealTimeRecurrentLearning",
    "Relaxer",
    "Settled",
    "SignSymmetric",
    "SteadyCell",
    "SteadyState",
    "WeightMirror",
    "carrying",
    "make_alignments",
]
