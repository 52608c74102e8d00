"""Texts for language models: cut into windows of bytes, one behind the other."""

import hashlib
from pathlib import Path

import numpy as np

from lockstep.data.problems import Problems, strange
from lockstep.data.split import Examples


def read(paths: dict[str, Path], window: int, problems: Problems) -> Examples:
    """Return the bytes of text files as uint8 (rows, window), in the order of the files' names.

    The last window of a file is padded with zeros. The key of a window is its file's name and
    place, so that what follows a text does not move what is in it to another split.
    """
    rows, keys, contents, places = [], list[bytes](), list[bytes](), list[str]()
    for name, path in sorted(paths.items()):
        fault = strange(path, name)
        content = path.read_bytes()
        if not fault and (wrong := _not_text(content)):
            fault = wrong
        if fault:
            problems.add(name, fault)
            continue
        padded = content.ljust(-(-len(content) // window) * window, b"\0")
        array = np.frombuffer(padded, np.uint8).reshape(-1, window)
        rows.append(array)
        for number, row in enumerate(array):
            place = f"{name}, byte {number * window}"
            places.append(place)
            keys.append(hashlib.sha256(place.encode()).digest())
            contents.append(hashlib.sha256(row.tobytes()).digest())
    inputs = np.concatenate(rows) if rows else np.zeros((0, window), np.uint8)
    return Examples(inputs, [""] * len(inputs), keys, contents, places)


def _not_text(content: bytes) -> str:
    if b"\0" in content:
        return "has a zero byte, expected text"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not in UTF-8 (byte {error.start}); save it in that encoding"
    return ""
