"""Training without gradients: a search over weights w that only asks for the loss f(w) of the batch.

    FiniteDifferences   g_i = (f(w + h e_i) - f(w)) / h,  w -= rate g             n + 1 evaluations a step
    SPSA                g = (f(w + h d) - f(w - h d)) / 2h d,  w -= rate g        3: d random signs (Spall 1992)
    RandomSearch        w + size z where its loss is lower                        2: z normal
    SignSearch          one weight up, down or neither, by `size`                 3
    Genetic             the fittest stays, the others are children                population + 1
    ParticleSwarm       v = inertia v + pull (own best - x) + pull (best - x)     population + 1

n counts the weights; one evaluation of each step is the loss that the run reports. No backward pass is made. The state
counts the evaluations, so that a table can set them beside those of backpropagation, whose step costs about three.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxbp.backprop import Result, item_weights
from jaxbp.core import Batch, Context, Layer, PyTree, entry, state_after
from jaxbp.losses import Loss
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective
from jaxbp.typed import NotNegative, Positive, Range, Share


class Point(NamedTuple):
    """Where a search stands at a step."""

    f: Callable[[jax.Array], jax.Array]  # the loss of the step's batch
    w: jax.Array  # [n], the weights
    value: jax.Array  # f(w)
    key: jax.Array  # of the step's random numbers
    first: jax.Array  # whether this is the first step


class Searched(NamedTuple):
    """The state of a search."""

    evaluations: jax.Array  # int32, of the loss of a batch
    steps: jax.Array  # int32
    search: PyTree  # the search's own


@dataclass(frozen=True)
class GradientFree(OptimizerConfig):
    """The base of searches that only ask for losses."""

    def start(self, w: jax.Array) -> PyTree:
        """What the search keeps from step to step, for weights w [n]."""
        return ()

    @abstractmethod
    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        """-> (the next weights [n], the next state)."""
        raise NotImplementedError

    @abstractmethod
    def evaluations(self, weights: int) -> int:
        """How often a step asks for the loss, the one that is reported included."""
        raise NotImplementedError

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """A forward pass alone; its gradients are zeros."""

        def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
            x, ctx = ctx.counted(batch)
            y, cache = model.forward(params, x, ctx)
            value, _ = loss.forward(y, entry(batch, "y"), item_weights(batch, y))
            return Result(value, jax.tree.map(jnp.zeros_like, params), state_after(model, ctx, cache), y)

        return run

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> Searched:
            zero = jnp.zeros((), jnp.int32)
            return Searched(zero, zero, self.start(ravel_pytree(params)[0]))

        def update(
            grads: PyTree, state: Searched, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
        ) -> tuple[PyTree, Searched]:
            w, tree_of = ravel_pytree(params)
            f = lambda w: objective.value(tree_of(w), batch, ctx)
            after, own = self.search(Point(f, w, value, ctx.draw("noise"), state.steps == 0), state.search)
            count = state.evaluations + self.evaluations(w.size)
            return tree_of(after - w), Searched(count, state.steps + 1, own)

        return optax.GradientTransformationExtraArgs(init, update)


@dataclass(frozen=True)
class FiniteDifferences(GradientFree):
    """The gradient by one forward difference for every weight.

    Args:
        learning_rate: of the step against the estimated gradient
        h: by which a weight is moved
    """

    learning_rate: Positive = 0.1
    h: Positive = 1e-3

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, value, _, _ = point
        g = jax.lax.map(lambda i: (f(w.at[i].add(self.h)) - value) / self.h, jnp.arange(w.size))
        return w - self.learning_rate * g, state

    def evaluations(self, weights: int) -> int:
        return weights + 1


@dataclass(frozen=True)
class SPSA(GradientFree):
    """All weights are moved at once, by random signs; twice the loss gives an estimate of the whole gradient.

    Unbiased up to h^2 (Spall 1992, IEEE Transactions on Automatic Control 37).

    Args:
        learning_rate: of the step against the estimated gradient
        h: by which every weight is moved
    """

    learning_rate: Positive = 0.01
    h: Positive = 1e-3

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, _, key, _ = point
        signs = jax.random.rademacher(key, w.shape, w.dtype)
        slope = (f(w + self.h * signs) - f(w - self.h * signs)) / (2 * self.h)
        return w - self.learning_rate * slope * signs, state

    def evaluations(self, weights: int) -> int:
        return 3


@dataclass(frozen=True)
class RandomSearch(GradientFree):
    """A random step, taken where it lowers the loss.

    Args:
        size: standard deviation of the step
    """

    size: Positive = 0.1

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, value, key, _ = point
        other = w + self.size * jax.random.normal(key, w.shape, w.dtype)
        return jnp.where(f(other) < value, other, w), state

    def evaluations(self, weights: int) -> int:
        return 2


@dataclass(frozen=True)
class SignSearch(GradientFree):
    """A weight drawn at random goes up or down, whichever lowers the loss more, or stays.

    Args:
        size: by which it moves
    """

    size: Positive = 0.1

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, value, key, _ = point
        i = jax.random.randint(key, (), 0, w.size)
        choices = jnp.stack([w, w.at[i].add(self.size), w.at[i].add(-self.size)])
        losses = jnp.stack([value, f(choices[1]), f(choices[2])])
        return choices[jnp.argmin(losses)], state

    def evaluations(self, weights: int) -> int:
        return 3


@dataclass(frozen=True)
class Genetic(GradientFree):
    """A population of weights: the fittest stays, the others are children of parents that won a tournament of two.

    A child takes each weight from one of two parents, and a normal number is added to some of them. The run's own
    weights are the fittest's.

    Args:
        population: individuals
        size: standard deviation of the first generation, and of a mutation
        mutation: share of a child's weights that mutate
    """

    population: Annotated[int, Range(2)] = 50
    size: Positive = 0.3
    mutation: Share = 0.1

    def start(self, w: jax.Array) -> PyTree:
        return jnp.zeros((self.population, w.size), w.dtype)

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, _, key, first = point
        keys = jax.random.split(key, 5)
        shape = state.shape
        drawn = w + self.size * jax.random.normal(keys[0], shape, w.dtype)
        people = jnp.where(first, drawn, state).at[0].set(w)
        losses = jax.lax.map(f, people)
        fittest = people[jnp.argmin(losses)]
        rivals = jax.random.randint(keys[1], (2, 2, shape[0]), 0, shape[0])  # [parents, rivals, children]
        parents = jnp.where(losses[rivals[:, 0]] < losses[rivals[:, 1]], rivals[:, 0], rivals[:, 1])
        mother, father = people[parents[0]], people[parents[1]]
        children = jnp.where(jax.random.bernoulli(keys[2], 0.5, shape), mother, father)
        mutates = jax.random.bernoulli(keys[3], self.mutation, shape)
        children = children + jnp.where(mutates, self.size * jax.random.normal(keys[4], shape, w.dtype), 0)
        return fittest, children

    def evaluations(self, weights: int) -> int:
        return self.population + 1


@dataclass(frozen=True)
class ParticleSwarm(GradientFree):
    """Particles fly through the weights, drawn to the best place of their own and to the best of all.

    v = inertia v + pull r (own best - x) + pull r' (best - x),  x += v, with r, r' uniform in [0, 1) for every weight.
    The run's own weights are the best of all. (Kennedy & Eberhart 1995; the defaults are Clerc & Kennedy's of 2002.)

    Args:
        population: particles
        size: standard deviation of the places at the start
        inertia: fraction of the velocity that a step keeps
        pull: towards each of the two best places
    """

    population: Annotated[int, Range(2)] = 30
    size: Positive = 1.0
    inertia: NotNegative = 0.729
    pull: Positive = 1.494

    def start(self, w: jax.Array) -> PyTree:
        places = jnp.zeros((self.population, w.size), w.dtype)
        return places, places, places, jnp.zeros(self.population, w.dtype)

    def search(self, point: Point, state: PyTree) -> tuple[jax.Array, PyTree]:
        f, w, _, key, first = point
        x, v, best, lowest = state
        keys = jax.random.split(key, 3)
        x = jnp.where(first, w + self.size * jax.random.normal(keys[0], x.shape, w.dtype), x)
        losses = jax.lax.map(f, x).astype(w.dtype)
        better = first | (losses < lowest)
        best, lowest = jnp.where(better[:, None], x, best), jnp.where(better, losses, lowest)
        leader = best[jnp.argmin(lowest)]
        own, common = (jax.random.uniform(k, x.shape, w.dtype) for k in keys[1:])
        v = self.inertia * v + self.pull * (own * (best - x) + common * (leader - x))
        return leader, (x + v, v, best, lowest)

    def evaluations(self, weights: int) -> int:
        return self.population + 1
