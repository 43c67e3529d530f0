"""Credit assignment other than the reverse sweep of backpropagation."""

from jaxbp.credit.rtrl import RealTimeRecurrentLearning

__all__ = ["RealTimeRecurrentLearning"]
