"""Run a recorded script again from its source and inputs, and compare its outputs."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lockstep.ground import environment, wheels
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import RunError
from lockstep.ground.place import Place
from lockstep.records import outputs, provenance, source
from lockstep.records.checkout import lay_out
from lockstep.records.differences import Difference, between_environments, between_packages
from lockstep.records.outputs import OutputComparison, script_of
from lockstep.records.reproduce import temporary_folder
from lockstep.records.run import Run
from lockstep.records.script import Script
from lockstep.records.verify import refuse_altered
from lockstep.script.command import Program, place_of_program, repository
from lockstep.script.story import run_script

_IMPORTED = (".py", ".pyc", ".so", ".pth")


@dataclass(frozen=True)
class Reproduction:
    """What came of it; ``kept`` is the reproduced run's folder, if its outputs differ."""

    found: OutputComparison
    before: list[Difference]
    kept: Path | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return self.found.as_dict() | {
            "before": [asdict(row) for row in self.before],
            "kept": str(self.kept) if self.kept else None,
        }


def reproduce(
    run: Run, place: Place, say: Callable[[str], None], *, trust: bool = False
) -> Reproduction:
    """Run a finished script again in a new folder, from its recorded source, and compare.

    Its inputs are taken from where they were, or from the repository at hand, and must be what they
    were. The program can write in the new folder only. ``say`` is first told every difference
    between the receipt and this machine. ``trust`` runs code that the repository at hand does not
    know. Raises RunError for a run that was altered or not finished, and for inputs that are
    missing or have changed.
    """
    script = script_of(run)
    refuse_altered(run)
    if not trust:
        provenance.refuse_unknown(run.name, unknown(run))
    receipt, parts = script.finished_receipt(), script.parts
    locked = environment.packages(
        "default", "develop", environment.torch_category(environment.installed())
    ).locked
    packages = wheels.as_identity(parts["packages"], locked)
    threads = parts["command"]["threads"]
    here = environment.facts(threads, environment.torch_version())
    before = between_packages(parts["packages"], packages)
    before += between_environments(receipt["environment"], here)
    for row in before:
        say(f"differs here: {row.part} {row.name}: recorded {row.a}, here {row.b}")
    cpu = receipt["environment"]["cpu"]["model"]
    if cpu != here["cpu"]["model"]:
        say(
            f"NOT COVERED: the run promises {receipt['level']['promise']} ({cpu}), here is "
            f"{here['cpu']['model']}; other bits would break no promise"
        )
    files = source.unpacked(run.folder / "source.zip")
    originals = _originals(script, files)
    with temporary_folder(say) as (folder, _):
        program = _laid_out(script, files, originals, folder / "repository")
        aside = Place(folder / "runs", place.data)
        confined = [folder, *map(Path, {tempfile.gettempdir(), "/dev", "/proc"})]
        done = run_script(program, aside, say, sys.stderr.buffer, confined)
        if done.code:
            raise RunError(
                f"{run.name}: its program ended here with exit code {done.code} (see above); fix "
                "what it says and reproduce again."
            )
        found = outputs.compare(run, done.run)
        if found.same:
            return Reproduction(found, before, None)
        kept = folder.rename(folder.with_name(folder.name.removesuffix(".part")))
    return Reproduction(found, before, kept / done.run.folder.relative_to(folder))


def unknown(run: Run) -> list[str]:
    """Return the code of a script's run that the repository at hand does not know.

    It is the program that its command names, and what Python may import of the archive. The rest is
    read by these.
    """
    script = script_of(run)
    files, command = source.unpacked(run.folder / "source.zip"), script.parts["command"]
    words = command["words"]
    place = place_of_program(words)
    named = words[place] if words[place] != "-m" else f"{words[place + 1].replace('.', '/')}.py"
    begun = os.path.normpath(Path(command["folder"], named))
    if words[place] == "-m" and begun not in files:
        begun = begun.removesuffix(".py") + "/__main__.py"
    code = {n: c for n, c in files.items() if n == begun or Path(n).suffix in _IMPORTED}
    commit = script.finished_receipt()["environment"]["git"]["commit"]
    names = provenance.not_known(code, [repository(Path.cwd())], commit)
    return names if begun in files else [f"the command python {' '.join(words)}", *names]


def _originals(script: Script, files: Mapping[str, bytes]) -> dict[str, Path]:
    """Where each input lies that the archive does not have. Raises RunError that names the others.

    They are looked for in the repository where the script ran, and in the one at hand.
    """
    homes = [Path(script.named["repository"]), repository(Path.cwd())]
    found, problems = {}, []
    for name, digest in script.parts["inputs"].items():
        if name in files:
            continue
        if ".." in PurePosixPath(name).parts:
            raise RunError(f"{script.folder.name}: input {name}: leads out of the repository.")
        there = [path for path in dict.fromkeys(home / name for home in homes) if path.is_file()]
        fitting = [path for path in there if digest_of(path) == digest]
        if fitting:
            found[name] = fitting[0]
        else:
            problems.append(
                f"{name} ({f'sha256 {digest_of(there[0])[:12]}' if there else 'not found'}, "
                f"expected sha256 {digest[:12]})"
            )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RunError(
            f"{script.folder.name}: inputs have changed or are missing: "
            f"{', '.join(problems[:5])}{more}; put them back at {homes[0]}."
        )
    return found


def _laid_out(
    script: Script, files: Mapping[str, bytes], originals: Mapping[str, Path], base: Path
) -> Program:
    """Lay out a script's source and inputs in a new folder; return the program in it."""
    command, written = script.parts["command"], script.finished_receipt()["results"]["outputs"]
    lay_out(files, base)
    for name, original in originals.items():
        path = base / name
        if path == original:
            continue  # outside of the repository: it is read where it is
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in written:
            shutil.copyfile(original, path)  # the program changes it
        else:
            path.symlink_to(original.resolve())
    folder = base / command["folder"]
    for path in (folder, *(base / name for name in script.named["folders"])):
        path.mkdir(parents=True, exist_ok=True)
    base, folder = base.resolve(), folder.resolve()
    named, seed, threads = script.named, command["seed"], command["threads"]
    paths = [base / path for path in named["paths"]]
    return Program(command["words"], named["name"], base, folder, seed, threads, paths)
