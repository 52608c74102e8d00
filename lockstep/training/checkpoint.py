"""Checkpoints: a folder each, named by one rename, verified when read, written aside training."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import CheckpointError, RunError, WriteError
from lockstep.ground.files import publish_folder, write_errors, write_flushed

_TENSORS = "tensors.safetensors"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems that have none


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: copies of all tensors, and the step with its few numbers as JSON."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` and the best.

    ``say`` is called with a line for damaged ones. At most one write is in flight; an error in it
    surfaces at the next save or at ``close``.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None]):
        self.folder, self.keep, self.say = folder, keep, say
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._in_flight: Future[None] | None = None
        with write_errors(folder):
            folder.mkdir(exist_ok=True)
            for replaced in folder.glob(".*.replaced"):  # killed before the new one had the name
                final = folder / replaced.stem.removeprefix(".")
                if not final.exists():
                    os.rename(replaced, final)
            for leftover in folder.glob(".*"):
                if leftover.is_symlink():
                    leftover.unlink()
                else:
                    shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot, *, best: int | None, flush: Callable[[], None]) -> None:
        """Start writing a snapshot; returns at once unless the last one is still being written.

        ``flush`` is called first, in the background, for files that the checkpoint relies on.
        ``best`` is the step whose checkpoint must be kept.
        """
        self.wait()
        self._in_flight = self._writer.submit(self._write, snapshot, best, flush)

    def wait(self) -> None:
        """Return when nothing is in flight. Raises what went wrong with it."""
        if self._in_flight:
            in_flight, self._in_flight = self._in_flight, None
            in_flight.result()

    def close(self) -> None:
        """Finish the write in flight and end the background thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(self, snapshot: Snapshot, best: int | None, flush: Callable[[], None]) -> None:
        if bad := [name for name, t in snapshot.tensors.items() if not _finite(name, t)]:
            raise CheckpointError(
                f"step {snapshot.step}: {bad[0]} is not finite, so this checkpoint is not written "
                "and the one before stays; lower training.lr or set training.clip."
            )
        flush()
        content = safetensors.torch.save(snapshot.tensors)

        def write(part: Path) -> None:
            write_flushed(part / _TENSORS, content)
            head: dict[str, Any] = {
                "files": {_TENSORS: digest_of(content)},
                "state": snapshot.state,
                "best": best,
            }
            head["digest"] = digest_of(canonical_json(head))
            write_flushed(part / "state.json", canonical_json(head))

        final = self.folder / f"{snapshot.step:08d}"
        aside = final.with_name(f".{final.name}.replaced")

        def replace(part: Path) -> None:
            write(part)
            if final.exists():  # of an earlier session: it loses its name when this one is whole
                os.rename(final, aside)

        try:
            publish_folder(final, replace)
        except WriteError as error:
            stays = f"checkpoint {snapshot.step} is not written and the one before stays"
            raise WriteError(final, f"{stays}: {error.reason}", error.remedy) from error
        with write_errors(aside):
            shutil.rmtree(aside, ignore_errors=True)
        # Newer ones could not be resumed from, or this step would not have been trained again.
        for step in self.steps():
            if step > snapshot.step:
                self._discard(self.folder / f"{step:08d}")
        self._settle(snapshot.step, best)

    def _settle(self, newest: int, best: int | None) -> None:
        """Point to the newest and the best, and remove those before that are no longer kept."""
        self._point("latest", newest)
        if best is not None:
            self._point("best", best)
        before = sorted(step for step in self.steps() if step <= newest)
        for step in before[: -self.keep]:
            if step != best:
                self._discard(self.folder / f"{step:08d}")

    def _point(self, name: str, step: int) -> None:
        """Let ``latest`` or ``best`` lead to a checkpoint: for people, nothing here reads them.

        A copy that followed the links has folders instead, and some file systems have no links.
        """
        part, final = self.folder / f".{name}", self.folder / name
        with write_errors(final):
            part.unlink(missing_ok=True)
            if final.is_dir() and not final.is_symlink():
                shutil.rmtree(final)
            try:
                part.symlink_to(f"{step:08d}")
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return
            os.replace(part, final)

    def _discard(self, folder: Path) -> None:
        """Remove a checkpoint; it loses its name before it loses a byte."""
        if folder.exists():
            with write_errors(folder):
                away = folder.with_name(f".{folder.name}.old")
                os.rename(folder, away)
                shutil.rmtree(away)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in no order."""
        with write_errors(self.folder):
            names = [path.name for path in self.folder.iterdir()]
        return [int(name) for name in names if re.fullmatch(r"\d{8,}", name)]

    def newest(self, check: Callable[[Snapshot], None] = lambda _: None) -> Snapshot | None:
        """Return the newest good checkpoint, or None; say why newer ones are passed over.

        ``check`` raises RunError for one that cannot be resumed from. None is removed before
        another one is saved: a file system that fails today may be well tomorrow.
        """
        problems: list[str] = []
        usable = None
        for step in sorted(self.steps(), reverse=True):
            try:
                snapshot, best = self._read(step)
                check(snapshot)
            except RunError as error:
                if not any(problem.startswith(str(error)) for problem in problems):
                    problems.append(str(error))
                continue
            self._settle(step, best)  # which a kill after its rename may have left undone
            usable = snapshot
            break
        again = f"from step {usable.step}" if usable else "from the start"
        for problem in problems:
            self.say(f"warning: {problem} Training continues {again}, to the same result.")
        return usable

    def read(self, step: int) -> Snapshot:
        """One checkpoint, verified. Raises CheckpointError if a byte of it has changed."""
        return self._read(step)[0]

    def _read(self, step: int) -> tuple[Snapshot, int | None]:
        folder = self.folder / f"{step:08d}"
        try:
            written = (folder / "state.json").read_bytes()
            head = json.loads(written)
            digest = head.pop("digest")
            if canonical_json(head | {"digest": digest}) != written or digest != digest_of(
                canonical_json(head)
            ):
                raise ValueError("its bytes are not those of its digest")
            content = (folder / _TENSORS).read_bytes()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: state.json is damaged ({error}).") from error
        if (found := digest_of(content)) != head["files"][_TENSORS]:
            raise CheckpointError(
                f"{folder / _TENSORS}: found sha256 {found[:12]}, expected "
                f"{head['files'][_TENSORS][:12]}."
            )
        return Snapshot(step, safetensors.torch.load(content), head["state"]), head["best"]


def _finite(name: str, tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if "buffers" in name:  # a mask may be infinite
        return not bool(torch.isnan(tensor).any())
    return bool(torch.isfinite(tensor).all())
