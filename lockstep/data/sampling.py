"""How often samples are drawn and in which order, where it is not each once and shuffled.

All are functions of the seed, the epoch and the position, so that a run resumes anywhere and has
the same batches with any number of workers. No list of an epoch's samples is ever made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lockstep.data.order import Order, mixed
from lockstep.ground.digests import key_of
from lockstep.ground.errors import ModelError
from lockstep.program import Balanced, Bucketed, Sampling, Sorted, Weighted

Rows = NDArray[np.int64]


class Positions(Protocol):
    """The samples of an epoch, by their positions in it."""

    def at(self, start: int, stop: int) -> Rows:
        """Return the samples at the positions from ``start`` up to ``stop``, in order."""


def order_of(
    sampling: Sampling | None, size: int, *, batch_size: int, seed: int
) -> Callable[[int], Positions]:
    """Return the function from an epoch to its order of ``size`` positions.

    Without a sampling each sample is drawn once, shuffled. Raises ModelError for a sampling that
    does not fit ``size`` samples.
    """
    match sampling:
        case None:
            return partial(Order, size, seed)
        case Weighted():
            weights = _column(sampling, "weights", size)
            if not (weights >= 0).all() or not np.isfinite(total := weights.sum()) or not total:
                raise ModelError(
                    "Weighted: found weights that are negative, not finite or all 0, expected "
                    "numbers of at least 0, some of them above it."
                )
            return partial(_Weighted, np.cumsum(weights), seed)
        case Balanced():
            groups = _Groups.of(_column(sampling, "groups", size), sampling.shares)
            return partial(_Balanced, groups, seed)
        case Sorted():
            order = np.argsort(_column(sampling, "keys", size), kind="stable")
            return partial(_Sorted, order, _count(sampling, "window"), seed)
        case Bucketed():
            lengths = _column(sampling, "lengths", size)
            return partial(_Bucketed, lengths, batch_size, _count(sampling, "batches"), seed)
    raise ModelError(
        f"sampling: returned {type(sampling).__name__}, expected Weighted, Balanced, Sorted, "
        "Bucketed or None."
    )


def _column(sampling: Any, name: str, size: int) -> NDArray[Any]:
    title, column = type(sampling).__name__, np.asarray(getattr(sampling, name))
    if column.shape != (size,) or column.dtype.kind not in "buif":
        raise ModelError(
            f"{title}: found {name} of shape {column.shape} and type {column.dtype}, expected a "
            f"number for each of the {size} training examples."
        )
    if column.dtype.kind == "f" and np.isnan(column).any():
        raise ModelError(f"{title}: found NaN among the {name}, expected numbers.")
    return column.astype(np.float64) if name == "weights" else column


def _count(sampling: Any, name: str) -> int:
    count = getattr(sampling, name)
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ModelError(
            f"{type(sampling).__name__}: found {name}={count!r}, expected a whole number from 1."
        )
    return int(count)


@dataclass(frozen=True)
class _Weighted:
    """Draws with replacement; ``cumulative`` are the weights, added up one by one."""

    cumulative: NDArray[np.float64]
    seed: int
    epoch: int

    def at(self, start: int, stop: int) -> Rows:
        key = np.uint64(key_of(self.seed, "weighted", self.epoch))
        numbers = mixed(mixed(np.arange(start, stop, dtype=np.uint64) ^ key))
        # 53 bits of each are a float64 from 0 up to 1, exactly.
        drawn = (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53 * self.cumulative[-1]
        rows = np.searchsorted(self.cumulative, drawn, side="right")
        # A product that is rounded up to the sum itself belongs to the last row that has a weight.
        last = np.searchsorted(self.cumulative, self.cumulative[-1])
        return np.asarray(np.minimum(rows, last), np.int64)


@dataclass(frozen=True)
class _Groups:
    """Samples by group: all of them in a row, where each group begins, and its draws an epoch."""

    members: Rows
    starts: Rows
    draws: Rows

    @classmethod
    def of(cls, groups: NDArray[Any], shares: Any) -> "_Groups":
        names, sizes = np.unique(groups, return_counts=True)
        unknown = sorted({*(shares or ())} - {*names.tolist()})
        missing = sorted({*names.tolist()} - {*(shares or names.tolist())})
        if unknown:
            raise ModelError(f"Balanced: group {unknown[0]} has a share, but no example.")
        if missing:
            raise ModelError(f"Balanced: group {missing[0]} has no share, expected one for each.")
        parts = np.array([float(shares[name]) if shares else 1.0 for name in names.tolist()])
        total = math.fsum(parts)  # rounded once, whatever the CPU
        if not (parts >= 0).all() or not 0 < total < math.inf:
            raise ModelError(
                "Balanced: expected finite shares of at least 0, some of them above it."
            )
        # The largest remainders round up, so that all draws together are as many as the samples.
        exact = parts / total * len(groups)
        draws = np.floor(exact).astype(np.int64)
        rest = np.argsort(draws - exact, kind="stable")[: len(groups) - draws.sum()]
        draws[rest] += 1
        starts = np.concatenate([[0], np.cumsum(sizes)])
        return cls(np.argsort(groups, kind="stable"), starts, draws)


@dataclass(frozen=True)
class _Balanced:
    """Draws from each group as often as its share says.

    Within a group a sample comes again when all others of it were drawn, over the epochs.
    """

    groups: _Groups
    seed: int
    epoch: int

    def at(self, start: int, stop: int) -> Rows:
        members, starts, draws = self.groups.members, self.groups.starts, self.groups.draws
        slots = Order(len(members), self.seed, self.epoch).at(start, stop)
        edges = np.cumsum(draws)
        of_slot = np.searchsorted(edges, slots, side="right")
        rows = np.empty(stop - start, np.int64)
        for group in np.unique(of_slot).tolist():
            mine = of_slot == group
            size = int(starts[group + 1] - starts[group])
            # The number of this draw since the first epoch, in rounds through the group.
            number = slots[mine] - (edges[group] - draws[group]) + self.epoch * draws[group]
            rounds, places = np.divmod(number, size)
            chosen = np.empty(len(number), np.int64)
            for one in np.unique(rounds).tolist():
                among = rounds == one
                order = Order(size, self.seed, one, group)
                chosen[among] = order.of(places[among].astype(np.uint64))
            rows[mine] = members[starts[group] + chosen]
        return rows


@dataclass(frozen=True)
class _Sorted:
    """The samples in the order of their keys, shuffled within windows."""

    order: Rows
    window: int
    seed: int
    epoch: int

    def at(self, start: int, stop: int) -> Rows:
        return _by_windows(self._window, self.window, len(self.order), start, stop)

    def _window(self, number: int, start: int, stop: int) -> Rows:
        places = Order(stop - start, self.seed, self.epoch, number).at(0, stop - start)
        return self.order[start:stop][places]


@dataclass(frozen=True)
class _Bucketed:
    """Shuffled samples; those of some batches are sorted by length, and these batches shuffled."""

    lengths: NDArray[Any]
    batch_size: int
    batches: int
    seed: int
    epoch: int

    def at(self, start: int, stop: int) -> Rows:
        window = self.batches * self.batch_size
        return _by_windows(self._window, window, len(self.lengths), start, stop)

    def _window(self, number: int, start: int, stop: int) -> Rows:
        rows = Order(len(self.lengths), self.seed, self.epoch).at(start, stop)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        whole = len(rows) // self.batch_size  # a shorter batch stays the last one
        places = Order(whole, self.seed, self.epoch, number).at(0, whole)
        batches = rows[: whole * self.batch_size].reshape(whole, self.batch_size)
        return np.concatenate([batches[places].ravel(), rows[whole * self.batch_size :]])


def _by_windows(
    rows_of: Callable[[int, int, int], Rows], size: int, total: int, start: int, stop: int
) -> Rows:
    """Return the samples from ``start`` up to ``stop``, made window by window."""
    parts = []
    for number in range(start // size, -(-stop // size)):
        first, last = number * size, min((number + 1) * size, total)
        parts.append(rows_of(number, first, last)[max(start - first, 0) : stop - first])
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
