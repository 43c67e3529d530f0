"""A run made again in memory, for pictures of its way: the loss of each step, and its weights on the way.

A run is a pure function of its config, so this is the way that a run of the config goes, to the bit on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.config import Config
from jaxbp.core import PyTree
from jaxbp.data import Splits
from jaxbp.errors import InputError
from jaxbp.optim import FirstOrder, OptaxSchedule
from jaxbp.training.assembly import assembled, training_step
from jaxbp.training.feeds import make_feeds
from jaxbp.training.step import State, initial_state, make_program

SMOOTH = 0.9  # of the mean loss that the finder looks at, how much each step keeps
WIDTH = 1  # decade of rates over which its slope is fitted, for single steps are noise
DIVERGED = 4  # times the lowest smoothed loss


@dataclass(frozen=True)
class Retrace:
    """The steps of a config's run on its data."""

    config: Config
    splits: Splits
    steps: int  # of the run

    @classmethod
    def of(cls, config: Config, splits: Splits, steps: int | None = None) -> Retrace:
        """A run of as many steps as the config says, or of `steps`."""
        batch = config.run.batch_size or len(splits.train)
        return cls(config, splits, steps or config.run.epochs * -(-len(splits.train) // batch))

    def states(self, stops: np.ndarray) -> Iterator[State]:
        """The states after so many steps each, ascending; each is gone when the next is asked for."""
        config = self.config
        run = config.run
        model, objective, optimizer, steps_per_epoch = assembled(config, self.splits, self.steps)
        program = make_program(training_step(config, model, optimizer, objective))
        state = initial_state(model, optimizer, objective.spec, run.seed, config.credit)
        rows = run.batch_size or len(self.splits.train)
        feed = make_feeds(self.splits.train, run.seed, run.shuffle, rows)(0, -(-self.steps // steps_per_epoch))
        done = 0
        for stop in stops.tolist():
            while done < stop and state.finite:
                count = min(stop - done, run.steps_per_call)
                state, _ = program(state, *feed.call(done, run.steps_per_call), jnp.int32(count))
                done += count
            yield state

    def losses(self) -> np.ndarray:
        """[steps]: the loss of every step; from the first that was not finite on it is inf."""
        losses = np.full(self.steps, np.inf)
        before = 0.0, 0.0
        for i, state in enumerate(self.states(np.arange(1, self.steps + 1))):
            sums = float(state.loss_sum), float(state.examples)
            if not state.finite or sums[1] == before[1]:
                break
            losses[i] = (sums[0] - before[0]) / (sums[1] - before[1])
            before = sums
        return losses

    def weights(self, points: int, early: bool = False) -> tuple[np.ndarray, list[dict[str, PyTree]]]:
        """(steps, weights) at so many points of the run, the first and the last among them.

        They are evenly spaced; early: closer at the beginning, where the most happens.
        """
        share = np.linspace(0, 1, points) ** (2 if early else 1)
        stops = np.unique(np.rint(share * self.steps).astype(int))
        return stops, [jax.tree.map(jnp.copy, state.weights) for state in self.states(stops)]


class RateSweep(NamedTuple):
    """The loss while the learning rate grows (Smith 2017, arXiv 1506.01186, section 3.3)."""

    rates: np.ndarray  # [steps]
    losses: np.ndarray  # [steps]
    smooth: np.ndarray  # [steps], to where it has diverged; nan after that

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest for a factor in it, up to its lowest: the suggestion."""
        known = np.flatnonzero(np.isfinite(self.smooth))
        if len(known) < 3:
            raise InputError("the loss diverges from the lowest rate on: begin lower, --low=RATE")
        to_lowest = known[: max(3, int(np.argmin(self.smooth[known])) + 1)]
        logs, losses = np.log10(self.rates[to_lowest]), self.smooth[to_lowest]
        near = np.abs(logs[:, None] - logs) < max(WIDTH / 2, 1.01 * (logs[1] - logs[0]))
        mean = lambda a: (near * a).sum(1) / near.sum(1)
        falls = (mean(logs * losses) - mean(logs) * mean(losses)) / (mean(logs**2) - mean(logs) ** 2)
        return float(self.rates[to_lowest[np.argmin(falls)]])

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest: a tenth of it is the other usual choice."""
        return float(self.rates[np.nanargmin(self.smooth)])


def sweep_rates(config: Config, splits: Splits, low: float, high: float, steps: int) -> RateSweep:
    """One run whose rate grows from low to high. Raises InputError for an optimizer without a learning rate."""
    optimizer = config.optimizer
    if not isinstance(optimizer, FirstOrder):
        raise InputError(f"{type(optimizer).__name__} has no learning rate with a schedule")
    growing = OptaxSchedule("exponential_decay", (f"transition_steps={max(steps - 1, 1)}", f"decay_rate={high / low}"))
    grown = replace(optimizer, learning_rate=low, schedule=growing)
    losses = Retrace.of(replace(config, optimizer=grown), splits, steps).losses()
    rates = low * (high / low) ** (np.arange(steps) / max(steps - 1, 1))
    smooth = np.full(steps, np.nan)
    mean = 0.0
    for i, loss in enumerate(losses):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smooth[i] = mean / (1 - SMOOTH ** (i + 1))
        if not np.isfinite(smooth[i]) or smooth[i] > DIVERGED * np.nanmin(smooth):
            smooth[i] = np.nan
            break
    return RateSweep(rates, losses, smooth)
