"""Forty gradients by hand in the spellings of NumPy courses, each with one mistake that people make.

Half of them were kept out of the diagnosis's making. `python -m proofs.spelled_out` counts what the check
makes of them.
"""

from proofs.spelled_out import development_layers, development_sequences, held_out_layers, held_out_sequences
from proofs.spelled_out.exercise import Exercise

DEVELOPMENT = (*development_layers.LAYERS, *development_sequences.SEQUENCES)
HELD_OUT = (*held_out_layers.LAYERS, *held_out_sequences.SEQUENCES)

__all__ = ["DEVELOPMENT", "HELD_OUT", "Exercise"]
