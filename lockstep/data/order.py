"""The order of the samples: a permutation per epoch, computed and never stored."""

import numpy as np
from numpy.typing import NDArray

from lockstep.ground.digests import key_of

_ROUNDS = 6
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


class Order:
    """Return the sample at any position of an epoch, in constant time.

    A Feistel network (Luby and Rackoff, 1988) permutes the smallest power of two that holds
    ``size``; a result beyond ``size`` is permuted again until it falls inside (cycle walking, Black
    and Rogaway, 2002), so each epoch is a true permutation of ``range(size)``.
    """

    def __init__(self, size: int, seed: int, epoch: int, *purpose: int):
        bits = max(2, (size - 1).bit_length())
        self.size = size
        self._left, self._right = bits // 2, bits - bits // 2
        self._keys = [
            np.uint64(key_of(seed, "order", epoch, number, *purpose)) for number in range(_ROUNDS)
        ]

    def at(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the samples at the positions from ``start`` up to ``stop``, in order."""
        return self.of(np.arange(start, stop, dtype=np.uint64))

    def of(self, positions: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the samples at these positions."""
        samples = self._permuted(positions)
        while (outside := samples >= self.size).any():
            samples[outside] = self._permuted(samples[outside])
        return samples.view(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        # The halves swap sides each round, so an odd number of bits swaps the widths as well;
        # after an even number of rounds both are back in place.
        left_bits, right_bits = self._left, self._right
        left, right = numbers >> np.uint64(right_bits), numbers & _mask(right_bits)
        for key in self._keys:
            left, right = right, (left + mixed(right ^ key)) & _mask(left_bits)
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers of 64 bits that look drawn at random, one for each of these."""
    result = numbers * _FIRST
    result ^= result >> np.uint64(32)
    result *= _SECOND
    result ^= result >> np.uint64(29)
    return result


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)
