"""The next point of a Lissajous figure by a loop of optical fibre: light meets what left the mixer 8 steps ago.

    jaxbp train configs/delay_loop.py

A source a(t + 8) = tanh(mixing a(t) + input) whose mixing is trained (Hermans et al. 2015, Nature Communications 6).
Sent backwards, light passes the mixer as its transpose, so the apparatus itself computes the delta of every step: it is
`dz wh` in the backward pass of the cell.

Takes about 15 seconds; mean squared error of the test 0.0154.
"""

from jaxbp.compose import Chain
from jaxbp.config import Config, Run
from jaxbp.data import Curve
from jaxbp.layers import Dense, Recurrent, SimpleCell
from jaxbp.losses import SquaredError
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Curve("lissajous"),
        model=Chain(Recurrent(SimpleCell(32, delays=(8,))), Dense(2)),
        loss=SquaredError(scale="mean"),
        optimizer=AdamW(learning_rate=5e-3, weight_decay=0.0, schedule=Cosine(warmup=0.05), clip_norm=1.0),
        run=Run(epochs=60, batch_size=32),
    )
