"""YAML as people write it: plain values, each key once, numbers and truth as in YAML 1.2."""

import math
import re
from typing import Any, ClassVar

import yaml

# Of YAML 1.1, PyYAML's, 0100 is 64, 1:30 is 90 and `no` is false, which nobody means. Here a number
# with a leading zero is text, as in an id.
_PLAIN = {
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (re.compile(r"[-+]?(?:0|[1-9]\d*)$|0x[0-9a-fA-F]+$"), "-+0123456789"),
    "float": (
        re.compile(
            r"[-+]?(?:\.\d+|(?:0|[1-9]\d*)\.\d*)(?:[eE][-+]?\d+)?$"
            r"|[-+]?(?:0|[1-9]\d*)[eE][-+]?\d+$"
            r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
        ),
        "-+.0123456789",
    ),
}


_MOST_VALUES = 100_000  # of a text with aliases


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Reads plain values only; refuses a key that a mapping has twice."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] in ("null", "merge")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: str) -> Any:
        node, keys = super().compose_mapping_node(anchor), dict[tuple[str, str], Any]()
        for key, _ in node.value:
            if (first := keys.setdefault((key.tag, str(key.value)), key)) is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"{key.value}: found twice ({lines}), expected once")
        return node


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes a text that either version of YAML would take for a number."""


for _kind, (_form, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _form, list(_first))


def load(text: str | bytes, loader: Any = _Loader) -> Any:
    """Return what a YAML text says, as plain values. Raises yaml.YAMLError.

    ``loader`` is PyYAML's class for it. Where there are aliases, they may stand for so many values
    only: aliases of aliases could stand for more than any memory holds.
    """
    try:
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        counted: dict[int, float] = {}
        values = _values(node, counted)
        if values > max(len(counted), _MOST_VALUES):
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        return reader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # !!int x, !!timestamp x
        raise yaml.YAMLError(str(error)) from error


def _values(node: Any, counted: dict[int, float]) -> float:
    """The number of values that a node stands for, with those of its aliases each time."""
    if id(node) not in counted:
        counted[id(node)] = math.inf  # until it is known: it may be a part of itself
        inside = node.value if not isinstance(node, yaml.ScalarNode) else ()
        pairs = (one if isinstance(one, tuple) else (one,) for one in inside)
        counted[id(node)] = 1 + sum(_values(one, counted) for pair in pairs for one in pair)
    return counted[id(node)]


def dump(content: Any, **style: Any) -> str:
    """Return the YAML text of plain values, in their order."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return text
