"""Gradients by hand in the spellings of NumPy courses, each with one mistake that people make.

Forty, of which half were kept out of the making of the diagnosis's first version; and the variations that it was made
with since. `python -m proofs.spelled_out` counts what the check makes of them.
"""

from proofs.spelled_out import development_layers, development_sequences, held_out_layers, held_out_sequences
from proofs.spelled_out.exercise import Exercise
from proofs.spelled_out.variations_attention import ATTENTION
from proofs.spelled_out.variations_images import IMAGES
from proofs.spelled_out.variations_layers import LAYERS
from proofs.spelled_out.variations_recurrent import RECURRENT

DEVELOPMENT = (*development_layers.LAYERS, *development_sequences.SEQUENCES)
HELD_OUT = (*held_out_layers.LAYERS, *held_out_sequences.SEQUENCES)
FAMILIES = (*LAYERS, *IMAGES, *RECURRENT, *ATTENTION)

__all__ = ["DEVELOPMENT", "FAMILIES", "HELD_OUT", "Exercise"]
