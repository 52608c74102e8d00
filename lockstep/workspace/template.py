"""``invoke new-model``: a model folder of the project that trains, copied from an example."""

import keyword
import re
import shutil
from pathlib import Path

from lockstep.ground.errors import ModelError
from lockstep.ground.files import publish_folder
from lockstep.ground.home import examples, here

DEFAULT = "digits"


def write_model(name: str, like: str = DEFAULT, data: str | None = None) -> list[Path]:
    """Copy an example under a new name into the project, with the catalog file of its data.

    With ``data`` its recipes name that data set, and no figures or budgets of the example's.
    Returns the files that were written. Raises ModelError for a name that is taken or cannot be one
    of a Python package, and for an unknown example.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ModelError(
            f"{name!r}: not a name for a model, expected lowercase letters, digits and _, and no "
            "word of Python's own."
        )
    home, template = here(), examples().folder_of(like)
    final = home.folder / "models" / name
    if final.exists():
        raise ModelError(f"{final}: already exists; choose another name or remove it.")

    def write(part: Path) -> None:
        for path in sorted(template.rglob("*")):
            copy = part / path.relative_to(template)
            if path.suffix in (".py", ".yaml"):
                text = path.read_text().replace(f"The {like} model", f"The {name} model")
                text = text.replace(f"--model {like} ", f"--model {name} ")
                if data and path.suffix == ".yaml":
                    text = _on_other_data(text, data)
                copy.parent.mkdir(exist_ok=True)
                copy.write_text(text)
            elif path.suffix == ".safetensors":
                shutil.copy(path, copy)

    publish_folder(final, write)
    written = sorted(path for path in final.rglob("*") if path.is_file())
    for path in _data_of(final):
        target = home.catalog / path.name
        if not target.exists():
            home.catalog.mkdir(exist_ok=True)
            shutil.copy(path, target)
            written.append(target)
    return written


def _on_other_data(recipe: str, data: str) -> str:
    """A recipe's text for another data set: without comments and budgets, which hold figures."""
    text = re.sub(r"^#.*\n|^accept:\n(  .*\n)*", "", recipe, flags=re.MULTILINE)
    return re.sub(r"^  name: .*", f"  name: {data}", text, count=1, flags=re.MULTILINE)


def _data_of(model: Path) -> list[Path]:
    """The catalog files of the examples' data sets that the recipes of a model name."""
    text = "".join(path.read_text() for path in model.glob("recipes/*.yaml"))
    names = re.findall(r"^  name: ([\w.-]+)", text, re.MULTILINE)
    return [path for path in examples().catalog.glob("*.yaml") if path.stem in names]
