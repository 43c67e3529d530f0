"""Suite gpt: a training step of a GPT (6 layers, 384 wide, 256 long, batch 8), against autodiff, PyTorch and Flax.

The forms by JAX are steps of the training loop's program, which takes its memory once for all of them. The peers do
the same steps: the same sizes, exact GELU, cross-entropy, AdamW, no dropout. PyTorch uses its own fused attention and
optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.race import Race, Run
from bench.training_race import Timed, looped, race
from jaxbp import value_and_grad
from jaxbp.check import autodiff
from jaxbp.core import Batch
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.machine import threads
from jaxbp.models import GPT
from jaxbp.training.step import Feed, initial_state, make_step

CLASSES, WIDTH, DEPTH, HEADS, LENGTH, ROWS, STEPS = 65, 384, 6, 6, 256, 8, 4
CONFIG = GPT(outputs=CLASSES, width=WIDTH, depth=DEPTH, heads=HEADS, context=LENGTH)


def cases() -> Iterator[Race]:
    timed = forms()
    peers: dict[str, Run] = {}
    for name, peer in (("torch eager", torch_step), ("flax nnx", flax_step)):
        try:
            peers[name] = peer()
        except ModuleNotFoundError as error:
            warnings.warn(f"{error.name} is not installed: {name} is left out", stacklevel=1)
    yield race(f"{DEPTH} x {WIDTH}, {ROWS} x {LENGTH}", timed, peers, repeats=3, peer_repeats=3)


def tokens() -> np.ndarray:
    """[N, T + 1]: inputs and, one later, targets."""
    return np.random.default_rng(0).integers(0, CLASSES, (ROWS, LENGTH + 1)).astype(np.int32)


def training_batch() -> Batch:
    ids = tokens()
    return {"x": jnp.asarray(ids[:, :-1]), "y": jnp.asarray(ids[:, 1:]), "mask": jnp.ones((ROWS, LENGTH))}


def forms() -> dict[str, Timed]:
    """The forms "hand" and "autodiff"."""
    model, loss, optimizer = CONFIG.build(), SoftmaxCrossEntropy(), optax.adamw(1e-3)
    batch = training_batch()
    state = initial_state(model, optimizer, batch["x"], 0)
    gradients = {"hand": value_and_grad(model, loss), "autodiff": autodiff(model, loss)}
    order = jnp.tile(jnp.arange(ROWS, dtype=jnp.int32), (STEPS, 1))
    feed = Feed(batch["x"], batch["y"], order, jnp.ones((STEPS, ROWS)), batch["mask"])
    return {name: looped(make_step(gradient, optimizer), state, feed, STEPS) for name, gradient in gradients.items()}


def torch_step() -> Run:
    import torch
    from torch import nn

    torch.set_num_threads(threads())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.dense = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.first(x)).reshape(ROWS, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            o = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(o.transpose(1, 2).reshape(ROWS, LENGTH, WIDTH))
            return x + self.dense(self.second(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.positions = nn.Embedding(CLASSES, WIDTH), nn.Parameter(torch.zeros(LENGTH, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.blocks(self.embedding(ids) + self.positions)))

    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
    ids = torch.from_numpy(tokens().astype(np.int64))

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            logits = net(ids[:, :-1])
            nn.functional.cross_entropy(logits.reshape(-1, CLASSES), ids[:, 1:].reshape(-1)).backward()
            optimizer.step()

    return run


def flax_step() -> Run:
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.second = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.widen = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
            x = x + self.attention(self.first(x), mask=mask)
            return x + self.narrow(nnx.gelu(self.widen(self.second(x)), approximate=False))

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embedding = nnx.Embed(CLASSES, WIDTH, rngs=rngs)
            self.positions = nnx.Param(jnp.zeros((LENGTH, WIDTH)))
            self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
            self.norm, self.head = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, ids: jax.Array) -> jax.Array:
            x, mask = self.embedding(ids) + self.positions[...], nnx.make_causal_mask(ids)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    graph, params = nnx.split(Net(nnx.Rngs(0)))
    optimizer = optax.adamw(1e-3)

    def loss(params: nnx.State, batch: Batch) -> jax.Array:
        logits = nnx.merge(graph, params)(batch["x"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    def step(state: tuple, batch: Batch) -> tuple:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, batch), moments, params)
        return optax.apply_updates(params, updates), moments

    batch = training_batch()
    state = (params, optimizer.init(params))
    program: Callable = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run() -> None:
        carried = jax.tree.map(jnp.copy, state)
        for _ in range(STEPS):
            carried = program(carried, batch)
        jax.block_until_ready(carried)

    return run
