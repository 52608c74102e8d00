"""The global random generators: torch's, NumPy's and Python's."""

import random

import torch
from numpy import random as numpy_random


def reseed(key: int) -> None:
    """Seed every global generator: torch's, NumPy's and Python's.

    torch.manual_seed does the same for torch in 90 µs instead of 1; the other two take 4 µs each.
    """
    torch.default_generator.manual_seed(key)
    numpy_random.seed(key & 0xFFFFFFFF)
    random.seed(key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(key)
