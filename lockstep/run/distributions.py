"""The distributions that are loaded while bits are made: found once, in a clean process."""

import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import EnvironmentMismatch, WriteError
from lockstep.ground.files import write_atomically

# What this process has loaded says little: a terminal's progress bar, a notebook or a test brings
# packages of its own. So the modules that making imports are imported alone, and without the
# packages that are not locked for training: scikit-learn imports pandas where it is, as on a host,
# and with it others that an image does not load.
_CODE = """
import importlib, json, re, sys
from importlib import metadata
from importlib.machinery import PathFinder

names, locked = json.loads(sys.argv[1])
asked = {name.partition(".")[0] for name in names}
owners = metadata.packages_distributions()
hidden = set()
for top, some in owners.items():
    if locked and not {re.sub("[-_.]+", "-", one).lower() for one in some} & {*locked}:
        hidden.add(top)

class Visible(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hide = name.partition(".")[0] in hidden - asked
        return None if hide else PathFinder.find_spec(name, path, target)

sys.meta_path = [Visible if finder is PathFinder else finder for finder in sys.meta_path]
missing = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:  # a name that is no module, or an optional package that is not here
        if name.partition(".")[0] not in sys.modules:
            missing.append(name.partition(".")[0])
tops = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
found = {owner: False for top in tops for owner in owners.get(top, ())}
found |= {owner: True for top in asked for owner in owners.get(top, ())}
print(json.dumps(found | dict.fromkeys(missing, True)))
"""


def loaded(names: Iterable[str], locked: Iterable[str], data: Path) -> dict[str, bool]:
    """Return the distributions that importing the modules of these names loads.

    Each with whether one of the names is its own; the others are loaded by these. Of the others
    only those that are ``locked`` are loaded, all if none is. A package that is not installed is
    listed as well: a model may do without it, with other bits. The answer is kept below the folder
    ``data`` for these names and the installed versions.
    Raises EnvironmentMismatch if one of them cannot be imported for another reason.
    """
    asked = [sorted(names), sorted(locked)]
    key = digest_of(canonical_json([_CODE, asked, environment.installed(), sys.version]))[:32]
    path = data / "distributions" / f"{key}.json"
    with suppress(OSError, ValueError):
        known: dict[str, bool] = json.loads(path.read_bytes())
        return known
    command = [sys.executable, "-I", "-c", _CODE, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentMismatch(f"packages: importing {', '.join(asked[0])} failed: {reason}")
    found = json.loads(done.stdout.splitlines()[-1])
    result = {environment.normal(name): named for name, named in sorted(found.items())}
    with suppress(OSError, WriteError):  # where it cannot be kept it is found again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, canonical_json(result))
    return result
