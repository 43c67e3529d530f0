"""Sixty gradients by hand in the spellings of NumPy courses, each with one mistake that people make.

The diagnosis was made with the first twenty; the next twenty were kept out of its making, and the fresh ones were
written after it. `python -m proofs.spelled_out` counts what the check makes of them.
"""

from proofs.spelled_out import (
    development_layers,
    development_sequences,
    fresh_layers,
    fresh_sequences,
    held_out_layers,
    held_out_sequences,
)
from proofs.spelled_out.exercise import Exercise

DEVELOPMENT = (*development_layers.LAYERS, *development_sequences.SEQUENCES)
HELD_OUT = (*held_out_layers.LAYERS, *held_out_sequences.SEQUENCES)
FRESH = (*fresh_layers.LAYERS, *fresh_sequences.SEQUENCES)

__all__ = ["DEVELOPMENT", "FRESH", "HELD_OUT", "Exercise"]
