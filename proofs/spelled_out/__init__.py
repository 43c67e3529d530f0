"""Gradients by hand in the spellings of NumPy courses, each with one mistake that people make.

Sixty in three parts. The diagnosis was first made with `development`. `held_out` was kept out of the making of its
first version, and `fresh` out of the making of its second, which was made with the variations too.
`python -m proofs.spelled_out` counts what the check makes of them.
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
from proofs.spelled_out.variations_attention import ATTENTION
from proofs.spelled_out.variations_images import IMAGES
from proofs.spelled_out.variations_layers import LAYERS
from proofs.spelled_out.variations_recurrent import RECURRENT

DEVELOPMENT = (*development_layers.LAYERS, *development_sequences.SEQUENCES)
HELD_OUT = (*held_out_layers.LAYERS, *held_out_sequences.SEQUENCES)
FRESH = (*fresh_layers.LAYERS, *fresh_sequences.SEQUENCES)
FAMILIES = (*LAYERS, *IMAGES, *RECURRENT, *ATTENTION)

__all__ = ["DEVELOPMENT", "FAMILIES", "FRESH", "HELD_OUT", "Exercise"]
