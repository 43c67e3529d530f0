"""Which keys a query of attention weighs and how: positions, mask, soft cap, additive bias, dropout.

c_ts = cap tanh(scale q_t . k_s / cap),    z_ts = c_ts + b_ts,  or -inf where the query does not see the key
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import require, wide
from jaxbp.errors import InputError, unknown
from jaxbp.letters import first_entry
from jaxbp.ops.score_bias import entries

Form = Literal["auto", "stored", "chunked", "kernel"]
FORMS = get_args(Form)
CHUNKED_FROM = 512**2  # scores of a head, from which on the chunked form is faster, and far leaner


@dataclass(frozen=True)
class Weighting:
    """Which keys a query weighs, how, and in which form.

    causal: keys up to the query's own position. window: with causal the last `window` keys, else those nearer than
    `window` on both sides. soft_cap: bound of the scores' magnitude, before the bias. dropout: fraction of the weights
    dropped. form: "auto" takes the chunked form for long sequences, and JAX's own kernel where it is fast and applies;
    "kernel" takes that one everywhere. block: positions in a block of the chunked form. axis: of a mesh, whose devices
    have equal parts of the heads in order; None: all heads are here.
    """

    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0
    form: Form = "auto"
    block: int = 256
    axis: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    def is_chunked(self, queries: int, keys: int) -> bool:
        """Whether the chunked form is taken."""
        return queries * keys >= CHUNKED_FROM if self.form == "auto" else self.form == "chunked"

    def takes_kernel(self, q: jax.Array, *others: jax.Array | None) -> bool:
        """Whether JAX's own kernel is taken: by default on GPU in half precision, where it can do what is asked."""
        applies = self.soft_cap is None and (self.window is None or self.causal) and all(a is None for a in others)
        if self.form == "kernel" and not applies:
            raise InputError("attention's form 'kernel' takes no soft cap, bias, mask, dropout or two-sided window")
        fast = jax.default_backend() == "gpu" and q.dtype.itemsize == 2 and q.shape[-1] in range(8, 129, 8)
        return self.form == "kernel" or (self.form == "auto" and applies and fast)

    def kernel(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """JAX's own attention: cuDNN's on GPU. q [N, T, H, D], k and v [N, S, K, D] -> o like q."""
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            is_causal=self.causal,
            local_window_size=None if self.window is None else (self.window - 1, 0),
            implementation="cudnn" if jax.default_backend() == "gpu" else "xla",
        )

    def sees(self, t: jax.Array, s: jax.Array) -> jax.Array | None:
        """[T, S]: whether the query at each position t [T] sees the key at each position s [S]; None: all see all."""
        ahead = s[None, :] - t[:, None]
        if self.window is not None:
            near = jnp.abs(ahead) < self.window
            return near & (ahead <= 0) if self.causal else near
        return ahead <= 0 if self.causal else None

    def blocks(self, queries: int, keys: int, size: int, moved: bool) -> np.ndarray:
        """[blocks, 2]: the blocks (of queries, of keys) of `size` positions in which any query sees any key.

        moved: the queries' positions are not known yet, so all blocks may meet.
        """
        pairs = []
        for i in range(-(-queries // size)):
            for j in range(-(-keys // size)):
                nearest = max(0, abs(i - j) * size - size + 1)
                if moved or (not (self.causal and j > i) and (self.window is None or nearest < self.window)):
                    pairs.append((i, j))
        return np.asarray(pairs, np.int32).reshape(-1, 2)

    def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """c [N, K, G, T, S], capped, of q [N, K, G, T, D] and k [N, K, S, D]."""
        c = product("nkgtd,nksd->nkgts", q * scale(q), k)
        return c if self.soft_cap is None else self.soft_cap * jnp.tanh(c / self.soft_cap)

    def seen(
        self, c: jax.Array, bias: jax.Array | None, valid: jax.Array | None, t: jax.Array, s: jax.Array
    ) -> jax.Array:
        """z [N, K, G, T, S] of c, for queries at the positions t [T] and keys at s [S]."""
        if bias is not None:
            c = c + entries(bias, c.shape).astype(c.dtype)
        sees = self.sees(t, s)
        if sees is not None:
            c = jnp.where(sees[None, None, None], c, -jnp.inf)
        return c if valid is None else jnp.where(valid[:, None, None, None, :], c, -jnp.inf)

    def uncapped(self, dc: jax.Array, c: jax.Array | None) -> jax.Array:
        """The delta of the scores before the soft cap, from that after it and the capped scores."""
        return dc if c is None or self.soft_cap is None else dc * (1 - jnp.square(c / self.soft_cap))

    def kept(self, seeds: jax.Array | None, block: jax.Array | int, shape: tuple[int, ...]) -> jax.Array | None:
        """m != 0 for weights [N, ...] of a block: a function of each example's seed [N] and the block's number."""
        if seeds is None:
            return None
        parts = 1 if self.axis is None else jax.lax.psum(1, self.axis)
        whole = (shape[1] * parts, *shape[2:])
        draw = lambda seed: jax.random.bernoulli(
            jax.random.fold_in(jax.random.key(seed), block), 1 - self.dropout, whole
        )
        kept = jax.vmap(draw)(seeds)
        if self.axis is None:
            return kept
        return jax.lax.dynamic_slice_in_dim(kept, first_entry(self.axis, shape[1]), shape[1], 1)

    def dropped(self, weights: jax.Array, kept: jax.Array | None) -> jax.Array:
        """m times the weights."""
        return weights if kept is None else jnp.where(kept, weights / (1 - self.dropout), 0)


def product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum with sums in at least float32. Its axes g and t, side by side in `a`, are one: XLA would copy for two."""
    arguments, out = letters.split("->")
    a_letters, b_letters = arguments.split(",")
    sizes = dict(zip(a_letters, a.shape, strict=True))
    joined = [
        x.reshape([-1 if m == "t" else n for m, n in zip(x_letters, x.shape, strict=True) if m != "g"])
        for x, x_letters in ((a, a_letters), (b, b_letters))
    ]
    y = jnp.einsum(letters.replace("g", ""), *joined, preferred_element_type=wide(a[:0]).dtype)
    return y.reshape([*y.shape[:2], sizes["g"], sizes["t"], *y.shape[3:]]) if "g" in out else y


def scale(q: jax.Array) -> float:
    """1 / sqrt(D)."""
    return float(q.shape[-1] ** -0.5)


def positions(count: int, start: jax.Array | None = None) -> jax.Array:
    """[count]: start, start + 1, ...; from 0 where there is no start."""
    steps = jnp.arange(count, dtype=jnp.int32)
    return steps if start is None else start + steps


def check_settings(owner: Any) -> None:
    """Raises InputError for a setting out of its range, of a Weighting or of a layer that has its settings."""
    require(owner, "window", owner.window is None or owner.window >= 1, "at least 1")
    require(owner, "soft_cap", owner.soft_cap is None or owner.soft_cap > 0, "positive")
    require(owner, "dropout", 0 <= owner.dropout < 1, "in [0, 1)")
    require(owner, "block", owner.block >= 1, "at least 1")
    if owner.form not in FORMS:
        raise unknown(f"{type(owner).__name__} form", owner.form, FORMS)
