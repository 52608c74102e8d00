"""What a project's code keeps in a process, as it was before a trial, to try without it."""

import copy
import functools
import operator
import sys
from collections import deque
from typing import Any

from lockstep.ground import home
from lockstep.run.making import Setup

# What torch keeps in a module itself is in checkpoints, or is the same always.
TORCHS = {"_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set"}

_Cached = type(functools.cache(print))


class Caches:
    """Values of the project's modules and classes, of the model's parts and the preprocessing.

    A table that is filled at first use, also by functools.cache, is filled again after ``empty``:
    what was drawn for it comes out otherwise, and what was computed is the same.
    """

    def __init__(self, setup: Setup):
        owners: list[Any] = [setup.preprocess]
        for module in setup.model.modules():
            if not type(module).__module__.startswith("torch."):
                owners.append(module)
        package = home.here().package
        for name, loaded in list(sys.modules.items()):
            if name.startswith(f"{package}.") and loaded is not None:
                owners.append(loaded)
                owners += [
                    kind
                    for kind in vars(loaded).values()
                    if isinstance(kind, type) and kind.__module__ == name
                ]
        self._before = [(owner, _values(owner)) for owner in owners]

    def are_filled(self) -> bool:
        """Return whether anything was put into them since."""
        for owner, before in self._before:
            now = _values(owner)
            if now.keys() != before.keys():
                return True
            for name, (value, content) in now.items():
                same = value is before[name][0] and _same(content, before[name][1])
                if not same or (isinstance(value, _Cached) and value.cache_info().currsize):
                    return True
        return False

    def empty(self) -> None:
        """Put all values back, and the content of dicts, lists and sets."""
        for owner, before in self._before:
            now = _values(owner)
            for name in now.keys() - before.keys():
                delattr(owner, name)
            for name, (value, content) in before.items():
                if name not in now or now[name][0] is not value:
                    setattr(owner, name, value)
                if content is not None:
                    value.clear()
                    (value.extend if isinstance(value, list | deque) else value.update)(content)
                if isinstance(value, _Cached):
                    value.cache_clear()


def _same(content: Any, other: Any) -> bool:
    """Return whether the same objects are in two copies."""
    if isinstance(content, dict):
        return content.keys() == other.keys() and all(content[key] is other[key] for key in content)
    if isinstance(content, list | deque):
        return len(content) == len(other) and all(map(operator.is_, content, other))
    return content is None or bool(content == other)


def _values(owner: Any) -> dict[str, tuple[Any, Any]]:
    """Return attributes with copies of what can be filled."""
    values = {
        name: value.__func__ if isinstance(value, classmethod | staticmethod) else value
        for name, value in vars(owner).items()
        if not name.startswith("__") and name not in TORCHS
    }
    return {
        name: (value, copy.copy(value) if isinstance(value, dict | list | set | deque) else None)
        for name, value in values.items()
    }
