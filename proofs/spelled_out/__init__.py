"""Forty gradients by hand in the spellings of NumPy courses, each with one mistake that people make.

Half of them were kept out of the diagnosis's making. `python -m proofs.spelled_out` counts what the check makes of them.
"""

from proofs.spelled_out.development_layers import LAYERS
from proofs.spelled_out.development_sequences import SEQUENCES
from proofs.spelled_out.exercise import Exercise

DEVELOPMENT = (*LAYERS, *SEQUENCES)

__all__ = ["DEVELOPMENT", "Exercise"]
