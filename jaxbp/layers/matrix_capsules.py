"""Matrix capsules: a 4 x 4 pose and an activation each, routed to the layer above by expectation and maximization.

Capsule i votes V_ij = M_i W_ij for the pose of capsule j. With R_ij = 1 / J at first, `rounds` times:

    maximization   R'_ij = R_ij a_i,   S_j = sum_i R'_ij,   m_j = sum_i R'_ij V_ij / S_j
                   v_j = sum_i R'_ij (V_ij - m_j)^2 / S_j + epsilon                     entry h by entry h of the pose
                   u_j = l_t (beta_a - S_j sum_h (beta_u + log(v_jh) / 2)),   a_j = sigmoid u_j
    expectation    z_ij = log a_j - sum_h ((V_ijh - m_jh)^2 / v_jh + log v_jh) / 2,   R_i = softmax z_i

m and a of the last round are the output (Hinton, Sabour & Frosst 2018, Matrix capsules with EM routing, procedure 1);
l_t rises to 1 in equal steps. Backward goes through all rounds, last to first. With e = V - m and deltas dm, dv, du:

    expectation    dz = softmax's backward of dR,     du_j += sum_i dz_ij (1 - a_j),     dV -= dz e / v
                   dm += sum_i dz e / v,              dv += sum_i dz (e^2 / v - 1) / (2 v)
    maximization   dc_j = -l_t du_j:   dv += dc S / (2 v),   dS += dc sum_h (beta_u + log(v) / 2)
                   dR' += sum_h dv e^2 / S,   dV += 2 dv R' e / S,   dm -= 2 dv sum_i R' e / S
                   dS -= sum_h dv (v - epsilon) / S
                   dR' += sum_h dm V / S,     dV += dm R' / S,       dS -= sum_h dm m / S
                   dR' += dS,   dR = dR' a_i,   da_i += sum_j dR' R

Keeps the input and (R, S, m, v, u) of every round, 1 / H + 2 / I of the size of the votes, which are made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.factors import Factors, GroupedFactors
from jaxbp.inits import Initializer, initializer
from jaxbp.ops.probabilities import softmax_backward
from jaxbp.ops.products import rounded

Capsule = tuple[jax.Array, jax.Array]  # poses [N, I, 4, 4] and activations [N, I]


@dataclass(frozen=True)
class MatrixCapsules(Layer):
    """(poses [N, I, P, P], activations [N, I] from 0 to 1) -> the same of `capsules` capsules.

    w [I, capsules, P, P], beta_u and beta_a [capsules]. rounds: of routing, at least 1. epsilon: under the variances
    and the sums, positive. w_init: a name or an initializer of jaxbp.inits (fan_in = fan_out = P).
    """

    capsules: int
    rounds: int = 3
    epsilon: float = 1e-3
    w_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        require(self, "capsules", self.capsules >= 1, "at least 1")
        require(self, "rounds", self.rounds >= 1, "at least 1")
        require(self, "epsilon", self.epsilon > 0, "positive")
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        _, below, size, _ = spec[0].shape
        w = initializer(self.w_init)(key, (below * self.capsules * size, size), in_axis=-1, out_axis=0)
        zeros = jnp.zeros(self.capsules, jnp.float32)
        return {"w": w.reshape(below, self.capsules, size, size), "beta_u": zeros, "beta_a": zeros}

    def votes(self, params: PyTree, poses: jax.Array) -> jax.Array:
        """V [N, I, J, H]."""
        v = rounded("niab,ijcb->nijac", poses, params["w"].astype(poses.dtype))
        return v.reshape(*v.shape[:3], -1)

    def maximization(self, params: PyTree, number: int, votes: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        """(S [N, J], m [N, J, H], v [N, J, H], u [N, J]) from R' [N, I, J]."""
        beta_u, beta_a = (params[name].astype(votes.dtype)[None] for name in ("beta_u", "beta_a"))
        total = jnp.sum(weights, 1) + self.epsilon
        mean = rounded("nij,nijh->njh", weights, votes) / total[..., None]
        square = jnp.square(votes - mean[:, None])
        variance = rounded("nij,nijh->njh", weights, square) / total[..., None] + self.epsilon
        cost = total * (beta_u * votes.shape[-1] + jnp.sum(jnp.log(variance), -1) / 2)
        return total, mean, variance, self.inverse_temperature(number) * (beta_a - cost)

    def expectation(self, votes: jax.Array, mean: jax.Array, variance: jax.Array, u: jax.Array) -> jax.Array:
        """R [N, I, J]."""
        distance = jnp.square(votes - mean[:, None]) / variance[:, None] + jnp.log(variance)[:, None]
        return jax.nn.softmax(jax.nn.log_sigmoid(u)[:, None] - jnp.sum(distance, -1) / 2, -1)

    def inverse_temperature(self, number: int) -> float:
        """l_t of the round with that number, from 0."""
        return (number + 1) / self.rounds

    def routed(self, params: PyTree, votes: jax.Array, activations: jax.Array) -> list[tuple[jax.Array, ...]]:
        """(R, S, m, v, u) of every round."""
        shares = jnp.full(votes.shape[:3], 1 / self.capsules, votes.dtype)
        kept = []
        for number in range(self.rounds):
            statistics = self.maximization(params, number, votes, shares * activations[..., None])
            kept.append((shares, *statistics))
            shares = self.expectation(votes, *statistics[1:])
        return kept

    def forward(self, params: PyTree, x: Capsule, ctx: Context = Context()) -> tuple[Capsule, PyTree]:
        poses, activations = x
        kept = self.routed(params, self.votes(params, poses), activations)
        _, _, mean, _, u = kept[-1]
        return (mean.reshape(*mean.shape[:2], *poses.shape[2:]), jax.nn.sigmoid(u)), (x, kept)

    def deltas(self, params: PyTree, cache: PyTree, dy: Capsule) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(dV [N, I, J, H], da [N, I], dbeta_u [N, J], dbeta_a [N, J])."""
        (poses, activations), kept = cache
        votes = self.votes(params, poses)
        beta_u = params["beta_u"].astype(votes.dtype)[None]
        a = jax.nn.sigmoid(kept[-1][-1])
        du, dm = dy[1] * a * (1 - a), dy[0].reshape(kept[-1][2].shape)
        dv = jnp.zeros_like(dm)
        dvotes, da = jnp.zeros_like(votes), jnp.zeros_like(activations)
        dbeta_u, dbeta_a = jnp.zeros_like(du), jnp.zeros_like(du)
        for number in range(self.rounds - 1, -1, -1):
            shares, total, mean, variance, _ = kept[number]
            weights = shares * activations[..., None]
            e = votes - mean[:, None]
            s = total[..., None]
            dc = -self.inverse_temperature(number) * du
            dbeta_a, dbeta_u = dbeta_a - dc, dbeta_u + dc * total * votes.shape[-1]
            dv = dv + (dc * total)[..., None] / (2 * variance)
            ds = dc * (beta_u * votes.shape[-1] + jnp.sum(jnp.log(variance), -1) / 2)
            dm = dm - 2 * dv * rounded("nij,nijh->njh", weights, e) / s
            ds = ds - jnp.sum(dv * (variance - self.epsilon) + dm * mean, -1) / total
            both = 2 * rounded("njh,nijh->nijh", dv / s, e) + (dm / s)[:, None]
            dweights = rounded("njh,nijh->nij", dv / s, e * e) + rounded("njh,nijh->nij", dm / s, votes)
            dweights = dweights + ds[:, None]
            dvotes = dvotes + weights[..., None] * both
            da = da + jnp.sum(dweights * shares, -1)
            if number:
                _, _, mean, variance, u = kept[number - 1]
                dz = softmax_backward(shares, dweights * activations[..., None], -1)
                pull = (votes - mean[:, None]) / variance[:, None]
                dvotes = dvotes - dz[..., None] * pull
                du = jnp.sum(dz, 1) * jax.nn.sigmoid(-u)
                dm = rounded("nij,nijh->njh", dz, pull)
                curve = pull * pull - (1 / variance)[:, None]
                dv = rounded("nij,nijh->njh", dz, curve) / 2
        return dvotes, da, dbeta_u, dbeta_a

    def backward(self, params: PyTree, cache: PyTree, dy: Capsule) -> tuple[Capsule, PyTree]:
        (poses, _), _ = cache
        dvotes, da, dbeta_u, dbeta_a = self.deltas(params, cache, dy)
        w = params["w"]
        dvotes = dvotes.reshape(*dvotes.shape[:3], *poses.shape[2:])  # [N, I, J, P, P]
        dposes = rounded("nijac,ijcb->niab", dvotes, w.astype(dvotes.dtype))
        dw = jnp.einsum("nijac,niab->ijcb", dvotes, poses, preferred_element_type=w.dtype)
        sums = {"beta_u": jnp.sum(dbeta_u, 0, dtype=w.dtype), "beta_a": jnp.sum(dbeta_a, 0, dtype=w.dtype)}
        return (dposes, da), {"w": dw} | sums

    def factors(self, params: PyTree, cache: PyTree, dy: Capsule) -> dict[str, Factors]:
        (poses, _), _ = cache
        dvotes, _, dbeta_u, dbeta_a = self.deltas(params, cache, dy)
        g = jnp.moveaxis(dvotes.reshape(*dvotes.shape[:3], *poses.shape[2:]), 3, 2)  # [N, I, P, J, P]
        factors: dict[str, Factors] = {"w": GroupedFactors(poses, g.reshape(*g.shape[:3], -1))}
        return factors | {"beta_u": Factors.of_bias(dbeta_u[:, None]), "beta_a": Factors.of_bias(dbeta_a[:, None])}

    @classmethod
    def cases(cls) -> list[Case]:
        reason = "an activation is a probability"
        return [
            Case(
                MatrixCapsules(2, rounds=2, epsilon=0.1),
                (shaped(5, 3, 2, 2), shaped(5, 3)),
                sample=probabilities,
                excused=(("finite", reason), ("hard points", reason)),
            )
        ]


def probabilities(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Uniform from 0.1 to 1."""
    return jax.random.uniform(key, spec.shape, spec.dtype, 0.1, 1)
