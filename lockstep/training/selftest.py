"""Whether this CPU computes the golden bits: small cases whose digests are known, and with them the
operations that gave the same bits on every CPU tried.

``python -m lockstep.training.selftest --write`` makes ``golden.json`` for the torch at hand, with
qemu-user for the other CPUs.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.utils._python_dispatch import TorchDispatchMode

from lockstep.ground import profiles
from lockstep.ground.digests import readable_json
from lockstep.training.cases import CASES
from lockstep.training.determinism import enforce

GOLDEN = Path(__file__).with_name("golden.json")
# As qemu-user names them. The golden values hold for these and for the CPU that wrote them.
CPUS = ("Haswell", "Skylake-Client", "EPYC")

_Calls = list[tuple[str, str, str]]  # (operation, digest of what it was given, of what it gave)


def failing() -> list[str]:
    """Why this process may compute other bits than other CPUs: a sentence for each reason.

    Empty is good. Wants ``determinism.enforce("portable", "cpu")`` before.
    """
    golden = _golden()
    if not golden:
        return [f"self-test: there are no golden values for torch {torch.__version__}"]
    return [
        f"self-test: {name}: other bits here than on the CPUs that torch {_version()} was tried on"
        for name, case in golden.items()
        if _digest(CASES[name]()) != case["digest"]
    ]


class Operations(TorchDispatchMode):
    """Notes every operation that torch runs while ``with Operations() as operations:`` lasts.

    It computes nothing itself, but while any such mode is on, autograd takes another formula for a
    few gradients (that of ``prod``): watch a step whose results are thrown away, or the same step
    always. Meant for training; inference mode shows composite operations instead of their parts.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if name := _name(func, args, kwargs, result):
            self.names.add(name)
        return result

    def unverified(self) -> list[str]:
        """The operations noted that are not known to give the same bits on every CPU tried."""
        return sorted(self.names - _verified())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import its compiler, a second's work, only to tell it to skip this class.
        return False


class _Witness(Operations):
    """Notes also what each operation was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: _Calls = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = "empty" in str(func)  # what stands in new memory is nobody's result
        given = _digest((args, kwargs))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if name := _name(func, args, kwargs, result):
            self.calls.append((name, given, "" if made else _digest(result)))
        return result


def _name(func: Any, args: tuple[Any, ...], kwargs: Any, result: Any) -> str:
    """An operation with its overload and whatever else chooses its kernel; "" if it is exact."""
    if func.is_view or torch.Tag.inplace_view in func.tags:  # computes nothing
        return ""
    dtypes = {t.dtype for t in _tensors((args, kwargs, result)) if not _is_whole(t)}
    if not dtypes:  # whole numbers are exact on every machine
        return ""
    name = str(func)
    if name.startswith("aten.pow") and not isinstance(args[1], torch.Tensor):
        name += f"({args[1]:g})"  # 0.5 is a square root
    others = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {torch.float32})
    return " ".join([name, *others])


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _tensors(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, list | tuple | dict):
        for item in nested.values() if isinstance(nested, dict) else nested:
            yield from _tensors(item)


def _digest(nested: Any) -> str:
    """xxh3_64 of all values in all tensors, 16 hex digits."""
    found = xxhash.xxh3_64()
    for tensor in _tensors(nested):
        if tensor.numel():
            plain = tensor.detach().resolve_conj().contiguous().flatten()
            found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _version() -> str:
    # A build for GPUs has the same number and another suffix; the digests tell whether it agrees.
    return torch.__version__.partition("+")[0]


@functools.cache
def _golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_bytes()).get(_version(), {})
    return found


@functools.cache
def _verified() -> frozenset[str]:
    return frozenset(name for case in _golden().values() for name in case["ops"])


def _witnessed() -> dict[str, tuple[str, _Calls]]:
    """Each case's digest, and then its calls one by one."""
    found = {}
    for name, case in CASES.items():
        digest = _digest(case())
        with _Witness() as witness:
            case()
        found[name] = (digest, witness.calls)
    return found


def _witnessed_by(*emulator: str) -> dict[str, tuple[str, _Calls]]:
    """The same in a process of its own, perhaps on another CPU."""
    done = subprocess.run(
        [*emulator, sys.executable, "-m", "lockstep.training.selftest", "--witness"],
        env=os.environ | profiles.variables("portable"),
        stdout=subprocess.PIPE,
        check=True,
    )
    return {name: (digest, calls) for name, (digest, calls) in json.loads(done.stdout).items()}


def _write() -> None:
    """Keep as golden what is the same here and on every emulated CPU; print what is not.

    An operation depends on the CPU if it was once given the same and gave something else. A case in
    which such a one occurs is left out, even if its digests agree.
    """
    here = _witnessed_by()
    differing, dependent = set(), set()
    for cpu in CPUS:
        for name, (digest, calls) in _witnessed_by("qemu-x86_64", "-cpu", cpu).items():
            differing |= {name} if digest != here[name][0] else set()
            for ours, theirs in zip(here[name][1], calls, strict=True):
                if ours[:2] == theirs[:2] and ours[2] != theirs[2]:
                    dependent.add(ours[0])
    golden = {
        name: {"digest": digest, "ops": sorted({operation for operation, *_ in calls})}
        for name, (digest, calls) in here.items()
        if name not in differing and dependent.isdisjoint(operation for operation, *_ in calls)
    }
    known = json.loads(GOLDEN.read_bytes()) if GOLDEN.exists() else {}
    GOLDEN.write_bytes(readable_json(known | {_version(): golden}))
    print("operations that depend on the CPU:", *sorted(dependent))
    print("cases left out:", *sorted(set(here) - set(golden)), sep="\n  ")


def main() -> None:
    """Write the golden values, or be one of the processes whose findings are compared for that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write golden.json, with qemu-user")
    if parser.parse_known_args()[0].write:
        _write()
    elif sys.argv[1:] == ["--witness"]:
        enforce("portable", "cpu")
        print(json.dumps(_witnessed()))
    else:
        parser.print_help()


if __name__ == "__main__":
    main()
