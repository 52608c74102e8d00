"""The engine's sub-packages, which pyproject.toml cannot compute; all else is said there."""

import tempfile

from setuptools import find_packages, setup  # type: ignore[import-untyped]

OURS = ("tests*", "docs*", "benchmarks*")  # not for those who install the engine

# Not beside the code: a build would leave files in the clone, and take over those of an older one.
with tempfile.TemporaryDirectory() as aside:
    setup(
        script_name="setup.py",  # so that it leaves this file itself out of the package
        packages=["lockstep", *(f"lockstep.{name}" for name in find_packages(exclude=OURS))],
        options={"build": {"build_base": aside}, "egg_info": {"egg_base": aside}},
    )
