"""The team's package, by the one name in pyproject.toml, with the engine beside it as a dependency.

``pip install .`` in a clone so installs two distributions.
"""

import tempfile
import tomllib
from pathlib import Path

from setuptools import find_packages, setup  # type: ignore[import-untyped]

ROOT = Path(__file__).parent
ENGINE = ROOT / "lockstep"
NAME = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")

# Not beside the code: a build would leave files in the clone, and take over those of an older one.
with tempfile.TemporaryDirectory() as aside:
    setup(
        packages=[NAME, *(f"{NAME}.{part}" for part in find_packages(NAME))],
        # Whatever lies in a model's folder may be read by it, and counts in its runs' identity.
        package_data={NAME: ["**/*"]},
        exclude_package_data={"": ["*.pyc"]},
        install_requires=[f"lockstep @ {ENGINE.as_uri()}" if ENGINE.is_dir() else "lockstep"],
        entry_points={"lockstep.project": [f"{NAME} = {NAME}"]},
        options={"build": {"build_base": aside}, "egg_info": {"egg_base": aside}},
    )
