"""A run's source and weights as they were, laid out to be used."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from lockstep.ground import environment, yaml_text
from lockstep.ground.errors import RunError
from lockstep.ground.files import flush_folder, publish_folder
from lockstep.records import source
from lockstep.records.run import Run
from lockstep.records.script import OUTPUTS
from lockstep.records.verify import refuse_altered

FIRST_PACKAGE = "project"  # of all runs and bundles of the first edition, which do not name it


def checkout(run: Run, folder: Path) -> Path:
    """Put a finished run's source into a new folder, and the run itself under ``runs`` in it.

    Of a script the files that are not in its source, such as large inputs, are not put there.

    Given back is the run's folder there: all its files but the checkpoints. Raises RunError if the
    run was altered or is not finished, or if the folder is there and not empty.
    """
    refuse_altered(run)
    if run.script:
        run.script.finished_receipt()
    else:
        run.finished_receipt()
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: exists and is not empty, expected a new folder; name another.")
    place = Path("runs") / run.name

    def write(part: Path) -> None:
        copy = part / place
        copy.mkdir(parents=True)
        if run.script:
            lay_out(source.unpacked(run.folder / "source.zip"), part)
            if (run.folder / OUTPUTS).is_dir():  # a script may write nothing
                shutil.copytree(run.folder / OUTPUTS, copy / OUTPUTS, ignore=_links)
        else:
            restore(run, part)
        for path in run.folder.iterdir():
            if path.is_file() and path.name[0] != "." and not path.is_symlink():
                shutil.copy(path, copy)
        refuse_altered(Run(copy))  # what was copied is what the receipt names
        for path in part.rglob("*"):
            flush_folder(path)  # or file: the system makes no difference

    publish_folder(folder, write)
    return folder / place


def _links(folder: str, names: list[str]) -> list[str]:
    """The links in a folder: they may lead to any file of this machine."""
    return [name for name in names if Path(folder, name).is_symlink()]


def package_of(run: Run) -> str:
    """Return the package that has a run's model."""
    return str(run.experiment().get("package", FIRST_PACKAGE))


def lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files, by their paths below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def restore(run: Run, folder: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Lay out a run's recorded source, or ``files``, its recipe and this environment's lock."""
    lay_out(files or source.unpacked(run.folder / "source.zip"), folder)
    experiment = run.experiment()
    package = package_of(run)
    recipes = folder.joinpath(*package.split(".")) / "models" / experiment["name"] / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    if not (folder / "pyproject.toml").exists() and "." not in package:
        (folder / "pyproject.toml").write_text(f'[project]\nname = "{package}"\n')
    settings = {name: values for name, values in experiment.items() if isinstance(values, dict)}
    text = yaml_text.dump(settings)
    (recipes / f"{experiment['recipe']}.yaml").write_text(text)
    if environment.LOCK.exists():
        shutil.copy(environment.LOCK, folder / "Pipfile.lock")
