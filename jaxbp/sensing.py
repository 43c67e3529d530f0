"""Jacobians of functions that can only be called: sensed with few calls where their structure is known, or found.

A call at x + h v gives J v to the accuracy of a difference: (f(x + h v) - f(x)) / h, or with two calls
(f(x + h v) - f(x - h v)) / 2 h. With v the sum of several unit vectors, a row of J v that only one of their columns
reaches is an entry of J (Curtis, Powell & Reid 1974). `groups` sorts the columns into such sums:

    full 200 x 200        200 calls          tridiagonal     3          Toeplitz      2
    l + u + 1 diagonals   l + u + 1          block-diagonal  its width  circulant     1

Entries that are one parameter (symmetric, Toeplitz) need to be read once, anywhere (Powell & Toint 1979).

An unknown structure is found by one call a column, or from m random directions V, when the rows of J have few entries:
each row j is the sparsest one that fits, min |V j - y|^2 / 2 + c |j|_1 by FISTA (Beck & Teboulle 2009), then least
squares on the entries that are left. m of a few times s log(D / s) is enough for s entries a row (Candes & Tao 2006).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from jaxbp.errors import InputError
from jaxbp.structures import Sparse, Table

Function = Callable[[np.ndarray], np.ndarray]  # [N, I] -> [N, O], both float64


class Calls:
    """A function of an array [N, I] that counts its calls, and answers from memory what it was asked lately.

    f may write into its argument, and into its last answer. count: the calls so far. remembered: the answers that
    needed none. keep: how many answers are kept.
    """

    def __init__(self, f: Function, keep: int = 8) -> None:
        self.f = f
        self.keep = keep
        self.count = 0
        self.remembered = 0
        self._answers: OrderedDict[tuple[tuple[int, ...], bytes], np.ndarray] = OrderedDict()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """f(x) [N, O] in float64. Raises InputError for an answer that is not real, or not [N, O]."""
        x = np.asarray(x, np.float64)
        key = (x.shape, x.tobytes())
        if key in self._answers:
            self.remembered += 1
            self._answers.move_to_end(key)
            return self._answers[key]
        self.count += 1
        answer = np.asarray(self.f(x.copy()))
        if answer.ndim != 2 or len(answer) != len(x) or np.iscomplexobj(answer):
            kind = f"got shape {list(answer.shape)} of {answer.dtype}: it must be [{len(x)}, O], of real numbers"
            raise InputError(f"a black box must give {len(x)} rows for {len(x)} rows, {kind}")
        y = np.array(answer, np.float64)
        self._answers[key] = y
        if len(self._answers) > self.keep:
            self._answers.popitem(last=False)
        return y


@lru_cache
def groups(structure: Table, outputs: int, inputs: int) -> tuple[tuple[int, ...], ...]:
    """Columns whose sum is one direction each, such that every parameter of the structure can be read somewhere.

    The column that has most parameters not read yet joins the first group in which all that need to be are still read.
    """
    index, sign = structure.table(outputs, inputs)
    filled = sign != 0
    count = int(index[filled].max(initial=-1)) + 1
    rows_of = [np.flatnonzero(filled[:, column]) for column in range(inputs)]
    waiting = np.zeros(count, int)  # in how many columns that are not placed yet a parameter stands
    for column, rows in enumerate(rows_of):
        np.add.at(waiting, index[rows, column], 1)
    readings = np.zeros(count, int)  # at how many places a parameter can be read
    members: list[list[int]] = []
    owner: list[np.ndarray] = []  # of each group and row: the column that reaches it; -1 none, -2 several
    unread = lambda column: int(np.sum(readings[index[rows_of[column], column]] == 0))
    queue = [(-unread(column), column) for column in range(inputs)]
    heapq.heapify(queue)
    while queue:
        column = heapq.heappop(queue)[1]
        if queue and (-unread(column), column) > queue[0]:  # what others read has put it behind
            heapq.heappush(queue, (-unread(column), column))
            continue
        rows = rows_of[column]
        own = index[rows, column]
        np.add.at(waiting, own, -1)
        if np.all(readings[own] > 0):
            continue
        for group, reached in zip(members, owner, strict=True):
            after = readings.copy()
            taken = reached[rows]
            np.add.at(after, own[taken == -1], 1)
            lost = rows[taken >= 0]
            np.add.at(after, index[lost, reached[lost]], -1)
            touched = np.concatenate([own, index[lost, reached[lost]]])
            if np.all((after[touched] > 0) | (waiting[touched] > 0)):
                group.append(column)
                reached[rows] = np.where(taken == -1, column, -2)
                readings = after
                break
        else:
            members.append([column])
            reached = np.full(outputs, -1)
            reached[rows] = column
            owner.append(reached)
            np.add.at(readings, own, 1)
    return tuple(map(tuple, members))


@lru_cache
def places(structure: Table, outputs: int, inputs: int) -> np.ndarray:
    """[K, 3]: of every parameter the group, row and sign with which it is read."""
    index, sign = structure.table(outputs, inputs)
    found = np.zeros((int(index[sign != 0].max(initial=-1)) + 1, 3), int)
    for number, columns in enumerate(groups(structure, outputs, inputs)):
        reach = sign[:, list(columns)] != 0
        for row in np.flatnonzero(reach.sum(1) == 1):
            column = columns[int(np.argmax(reach[row]))]
            found[index[row, column]] = number, row, sign[row, column]
    return found


def sense(
    f: Function, x: np.ndarray, structure: Table, outputs: int, central: bool = False, step: float | None = None
) -> np.ndarray:
    """[N, K]: the parameters of the Jacobian [outputs, I] of f at every row of x [N, I].

    One call at x, unless f remembers it, and one for each of the `groups`; with `central` two for each and none at x.
    step: as of `directional`.
    """
    unit = np.eye(x.shape[1])
    directions = [unit[list(columns)].sum(0) for columns in groups(structure, outputs, x.shape[1])]
    along = np.stack([directional(f, x, v, central, step) for v in directions])  # [groups, N, O]
    group, row, sign = places(structure, outputs, x.shape[1]).T
    return along[group, :, row].T * sign[None]


def directional(f: Function, x: np.ndarray, v: np.ndarray, central: bool, step: float | None = None) -> np.ndarray:
    """[N, O]: J v at every row of x [N, I], by one difference or a central one.

    step: h, in units of the largest |x| of a row, or of 1 where that is larger; by default the square root of the
    rounding of float64, and its third root for central differences. A noisy function needs a larger one. A linear
    function has no error but rounding, and takes 1.
    """
    eps = float(np.finfo(np.float64).eps)
    relative = step or (eps ** (1 / 3) if central else eps**0.5)
    scale = np.maximum(1, np.abs(x).max(1, keepdims=True))
    h = 2.0 ** np.round(np.log2(relative * scale))  # a power of two: x + h loses no digit of h
    if central:
        return (np.array(f(x + h * v)) - f(x - h * v)) / (2 * h)  # f may write its next answer into its last
    return (np.array(f(x + h * v)) - f(x)) / h


def find(
    f: Function, x: np.ndarray, calls: int | None = None, seed: int = 0, smallest: float = 1e-4, step: float = 1e-5
) -> Sparse:
    """The entries of the Jacobian of f at x [I] that are larger than `smallest` times the largest one.

    calls: None looks at each column with a call of its own. Fewer than I calls go along random directions, and the
    sparsest Jacobian that fits is taken; give more where rows have many entries. Two calls at each direction are made.
    An entry that is 0 at x alone is missed: take an x where nothing is special. Raises InputError for another shape.
    """
    if x.ndim != 1:
        raise InputError(f"x must be one example [I], got shape {list(x.shape)}")
    size = len(x)
    if calls is None or calls >= size:
        v = np.eye(size)
    else:
        v = np.random.default_rng(seed).choice([-1.0, 1.0], (calls, size)) / calls**0.5
    jv = np.stack([directional(f, x[None], row, True, step)[0] for row in v], 1)  # [O, calls]
    jacobian = jv if len(v) == size else sparsest(v, jv, smallest)
    large = np.abs(jacobian) > smallest * np.abs(jacobian).max(initial=0)
    return Sparse(tuple((int(row), int(column)) for row, column in np.argwhere(large)))


def sparsest(v: np.ndarray, jv: np.ndarray, smallest: float, steps: int = 500) -> np.ndarray:
    """J [O, I] whose rows minimize |V j - y|^2 / 2 + c |j|_1, then least squares on the entries that are left.

    v [m, I], jv = J V^T [O, m]. c falls to `smallest` / 10 of the value above which every row would be 0.
    """
    bound = np.linalg.norm(v, 2) ** 2
    top = np.abs(jv @ v).max(1, keepdims=True)
    j = point = np.zeros((len(jv), v.shape[1]))
    for number in range(steps):
        threshold = np.maximum(smallest / 10, 0.97**number) * top / bound
        moved = point - (point @ v.T - jv) @ v / bound
        after = np.sign(moved) * np.maximum(np.abs(moved) - threshold, 0)
        point = after + number / (number + 3) * (after - j)
        j = after
    for row, y in zip(j, jv, strict=True):
        kept = np.argsort(-np.abs(row))[: len(v) // 2]
        kept = kept[np.abs(row[kept]) > smallest * np.abs(row).max(initial=0)]
        row[:] = 0
        row[kept] = np.linalg.lstsq(v[:, kept], y, rcond=None)[0]
    return j
