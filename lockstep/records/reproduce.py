"""Train a recorded run again from its own source, and compare bit by bit."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lockstep.ground import environment, wheels
from lockstep.ground.errors import Interrupted, RunError
from lockstep.ground.files import held, remove_abandoned, write_atomically
from lockstep.ground.processes import follow_parent, variables_for_others
from lockstep.records import compare, provenance, source
from lockstep.records.checkout import package_of, restore
from lockstep.records.compare import Comparison
from lockstep.records.differences import Difference, between_environments, between_packages
from lockstep.records.run import Run
from lockstep.records.verify import refuse_altered


@dataclass(frozen=True)
class Reproduction:
    """What came of it; ``kept`` is the reproduced run's folder, if it had other bits."""

    found: Comparison
    before: list[Difference]
    uncovered: str
    kept: Path | None
    page: Path | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return self.found.as_dict() | {
            "before": [asdict(row) for row in self.before],
            "uncovered": self.uncovered or None,
            "kept": str(self.kept) if self.kept else None,
            "page": str(self.page) if self.page else None,
        }


def reproduce(
    run: Run,
    data: Path,
    prepared: Collection[str],
    say: Callable[[str], None],
    steps: int | None = None,
    *,
    trust: bool = False,
) -> Reproduction:
    """Train a finished run again as a process of the recorded code, up to ``steps``, and compare.

    ``data`` is the folder of the data, ``prepared`` the digests of the data sets that lie ready in
    it. ``say`` is first told every difference between the receipt and this machine, and whether the
    run's level covers it. Code that is in no identity is this tree's; ``trust`` runs code that this
    checkout does not know. It gets few of our variables: no keys and tokens. Raises RunError for a
    run that was altered or is not finished, or whose code imports a package that is not installed.
    """
    refuse_altered(run)
    receipt = run.finished_receipt()
    _refuse_missing_packages(run)
    if steps is not None and steps >= receipt["results"]["steps"]:
        steps = None
    files = provenance.code_of(run, trust=trust)
    for name, whose in provenance.differing(run).items():
        say(f"differs from this tree: {name}; what runs is {whose}")
    before = differences_here(run)
    for row in before:
        say(f"differs here: {row.part} {row.name}: recorded {row.a}, here {row.b}")
    if (digest := run.parts["data"]) not in prepared:
        say(f"data of digest {digest[:12]} is not prepared here; the recorded catalog is followed")
    uncovered = not_covered(run)
    if uncovered:
        say(f"NOT COVERED: {uncovered}; other bits would break no promise")
    with temporary_folder(say) as (folder, lock):
        again, code = _train_again(run, files, folder, lock, data, steps)
        found = again and compare.compare(run, again)
        # A run that ended early has told nothing, unless it had parted before.
        if not found or (found.step is None and (code or found.steps[1] < (steps or 0))):
            raise RunError(
                f"{run.name}: its code ended here with exit code {code} (see above) after "
                f"{found.steps[1] if found else 0} steps; fix what it says and reproduce again."
            )
        assert again
        if found.same:
            return Reproduction(found, before, uncovered, None, None)
        page = folder / "comparison.html"
        write_atomically(page, compare.page(run, again, found))
        kept = folder.rename(folder.with_name(folder.name.removesuffix(".part")))
    where = kept / again.folder.relative_to(folder)
    return Reproduction(found, before, uncovered, where, kept / page.name)


def _refuse_missing_packages(run: Run) -> None:
    """Raise RunError if what made the bits imports a recorded package that is not installed."""
    files, parts = source.unpacked(run.folder / "source.zip"), run.parts
    made_by = {name: files[name] for name in parts["source"] if name in files}
    modules = {name.partition(".")[0] for name in source.third_party(made_by, package_of(run))}
    for module in sorted(modules):
        version, *_ = parts["packages"].get(environment.normal(module), ["none"])
        if version == "none" or find_spec(module):
            continue
        commit = run.finished_receipt()["environment"]["git"]["commit"]
        clone = f"a clone at commit {commit[:12]}" if commit else "the clone that trained it"
        raise RunError(
            f"{run.name}: {module} {version} is not installed, but its code imports it; install "
            f"{module}=={version}, or reproduce the run in {clone}."
        )


def differences_here(run: Run) -> list[Difference]:
    """What the receipt says of packages, interpreter and machine that is otherwise here."""
    recorded, packages = run.finished_receipt()["environment"], run.parts["packages"]
    here = environment.facts(recorded["threads"], environment.torch_version())
    found = between_packages(packages, wheels.as_identity(packages, environment.packages().locked))
    return found + between_environments(recorded, here)


def not_covered(run: Run) -> str:
    """Why the level that a run promises does not cover this machine; nothing if it does."""
    receipt, profile, here = run.finished_receipt(), run.parts["profile"], environment.cpu()
    recorded, promised = receipt["environment"], receipt["level"]
    text = f"the run promises {promised['promise']}"
    if promised["lowered"]:
        text += f" (lowered: {'; '.join(promised['lowered'])})"
    if profile["device"] == "cuda":
        gpu = environment.gpu()
        return "" if gpu == profile.get("gpu") else f"{text}, here is {gpu or 'no GPU'}"
    if profile["name"] == "portable" and not promised["lowered"]:
        return "" if "avx2" in here["features"] else f"{text}, here is {here['model']} without AVX2"
    return "" if here["model"] == recorded["cpu"]["model"] else f"{text}, here is {here['model']}"


def _train_again(
    run: Run, files: Mapping[str, bytes], folder: Path, lock: int, data: Path, steps: int | None
) -> tuple[Run | None, int]:
    """The run that the source makes here (None if it made none), and its exit code."""
    experiment = run.experiment()
    restore(run, folder, files)
    words = ["train", f"{experiment['name']}/{experiment['recipe']}"]
    words += ["--seed", str(experiment["seed"]), "--runs", str(folder / "runs")]
    words += ["--until", str(steps)] if steps else []
    code = _command(words, folder, lock, data, package_of(run))
    made = [path.parent for path in folder.glob("runs/*/trace.bin")]
    return (Run(made[0]) if made else None), code


def _command(words: list[str], folder: Path, lock: int, data: Path, package: str) -> int:
    """Run a verb of the source that lies in a folder; its messages are shown, its output not."""
    # Runs of the first edition have one package, which is engine and project in one.
    module = "lockstep" if (folder / "lockstep" / "__main__.py").exists() else "project"
    # Folders that were named from where the user stands.
    lists = {
        name: [str(Path(path).absolute()) for path in os.environ[name].split(os.pathsep) if path]
        for name in ("PYTHONPATH", "LOCKSTEP_DATA_PATH")
        if name in os.environ
    }
    lists["PYTHONPATH"] = [str(folder), *lists.get("PYTHONPATH", [])]
    variables = {name: os.pathsep.join(paths) for name, paths in lists.items()}
    child = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=variables_for_others()
        | variables
        | {"LOCKSTEP_DATA": str(data.absolute()), "LOCKSTEP_TRACK": "off"}
        | {"LOCKSTEP_PROJECT": package},
        stdout=subprocess.DEVNULL,
        preexec_fn=follow_parent,
        pass_fds=[lock],  # if we are killed, the folder is held until the child has ended
    )
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


@contextmanager
def temporary_folder(say: Callable[[str], None]) -> Iterator[tuple[Path, int]]:
    """A folder that is gone afterwards, also when a signal asks to stop, unless it was renamed.

    Given are its path and its lock. After SIGKILL it stays, until it is removed here the next time.
    """
    for left in Path(tempfile.gettempdir()).glob("lockstep-reproduce-*.part"):
        if remove_abandoned(left):
            say(f"removed {left}, which a reproduction that was killed had left")

    def stop(number: int, _: object) -> None:
        raise Interrupted(number, "stopped reproducing")

    before = signal.signal(signal.SIGTERM, stop)
    folder = Path(tempfile.mkdtemp(prefix="lockstep-reproduce-", suffix=".new")).resolve()
    try:
        with held(folder, say) as lock:
            # It gets the name by which it may be removed only now that it is held.
            folder = folder.rename(folder.with_suffix(".part"))
            yield folder, lock
    finally:
        asked = signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks twice must not break this
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGINT, asked)
        signal.signal(signal.SIGTERM, before)
