"""``invoke new-model``: a model folder that trains, written from the smallest one there is."""

import re
from pathlib import Path

from project.errors import ModelError
from project.files import publish_folder, told_in_one_line, write_atomically
from project.models import FOLDER

_TESTS = FOLDER.parents[1] / "tests" / "models"
_TEST = '''"""The {name} model."""

from project import models


def test_{name}_trains_and_predicts(train_briefly):
    run = train_briefly("{name}")
    predictor = models.module("{name}").Predictor.load(run.folder)
    [answer] = predictor.predict([[[0] * 8] * 8])
    assert answer["label"] in run.receipt["results"]["labels"]
'''


def write_model(name: str) -> list[Path]:
    """Copy the digits model under a new name, to be made one's own; and a test for it.

    Raises ModelError for a name that is taken or cannot be one of a Python package.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ModelError(f"{name}: no name for a model; wanted small letters, digits and _.")
    if (FOLDER / name).exists():
        raise ModelError(f"{FOLDER / name}: is there already; choose another name or remove it.")

    def write(part: Path) -> None:
        for path in sorted((FOLDER / "digits").rglob("*")):
            if path.suffix in (".py", ".yaml"):
                text = path.read_text().replace("models.digits", f"models.{name}")
                text = text.replace("The digits model", f"The {name} model")
                text = text.replace("train --seed", f"train --model {name} --seed")
                copy = part / path.relative_to(FOLDER / "digits")
                copy.parent.mkdir(exist_ok=True)
                copy.write_text(text)

    publish_folder(FOLDER / name, write, setting="")
    written = sorted(path for path in (FOLDER / name).rglob("*") if path.is_file())
    if _TESTS.parent.exists():
        with told_in_one_line(_TESTS, setting=""):
            _TESTS.mkdir(exist_ok=True)
        write_atomically(_TESTS / f"test_{name}.py", _TEST.format(name=name).encode(), setting="")
        written.append(_TESTS / f"test_{name}.py")
    return written
