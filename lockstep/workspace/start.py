"""``invoke init``: a team's tree, with the engine whole and a package of the team's own name."""

import importlib.machinery
import keyword
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lockstep.ground.errors import WorkspaceError
from lockstep.ground.files import held, publish_folder
from lockstep.ground.home import ROOT, examples
from lockstep.workspace import change
from lockstep.workspace.change import Change, index_lines
from lockstep.workspace.git import Git

EXAMPLE = "digits"  # what a new tree begins with
# A team's own from the first day, besides its package: no upgrade touches them. The lock is made.
TEAM = frozenset({"tests", "notebooks", "README.md", "LICENSE", "Pipfile.lock"})
# Where files that engine and team share name the team's package, or the engine's repository.
_PACKAGE = {
    "pyproject.toml": (r'(?m)^(name = ")[\w-]+(")',),
    "docker/Dockerfile": (r"(?m)^(ARG PROJECT=){}($)",),
    "docker/compose.yaml": (r"(\$\{PROJECT:-){}(\})",),
}
_UPSTREAM = r'(?m)^(upstream = ")[^"]*(")'
_PACKAGE_DOC = '"""Our models and data: a folder each in ``models``, a file each in ``data``."""\n'
_MODELS_DOC = '"""The models, a folder each: `invoke new-model NAME` writes one."""\n'
_README = """\
# {name}

Our models and data, trained with Lockstep: the same recipe and seed give the same bits everywhere.

    ./workbench train --seed 42     # makes the locked environment on first use, then trains
    ./workbench test                # our contract tests, and the engine's quick ones

- `{name}/models/` has a folder for each model, `{name}/data/` a file for each data set.
  `invoke new-model NAME` makes another model; how one is written:
  [models](lockstep/docs/models.md).
- `tests/` has our tests, `notebooks/` our notebooks, `Pipfile` our dependencies (`invoke add NAME`
  adds one).
- `lockstep/` is the engine, which we do not edit; `invoke upgrade` takes a newer one:
  [upgrade](lockstep/docs/upgrade.md).
"""


@dataclass(frozen=True)
class Names:
    """What shared files say of a team: its package, and where its engine comes from."""

    package: str
    upstream: str

    @classmethod
    def of(cls, pyproject: str) -> "Names":
        """Read them from the text of a pyproject.toml."""
        name = re.search(_PACKAGE["pyproject.toml"][0], pyproject)
        upstream = re.search(r'(?m)^upstream = "([^"]*)"', pyproject)
        package = re.sub(r'^name = |"', "", name[0]).replace("-", "_") if name else ""
        return cls(package, upstream[1] if upstream else "")

    def put_into(self, path: str, text: str, before: str) -> str:
        """Return a shared file of the package ``before`` as it is in this team's tree."""
        if path == "pyproject.toml":
            text = re.sub(_UPSTREAM, rf"\g<1>{self.upstream}\g<2>", text)
        for pattern in _PACKAGE.get(path, ()):
            pattern = pattern.replace("{}", re.escape(before))
            text = re.sub(pattern, rf"\g<1>{self.package}\g<2>", text, count=1)
        return text

    @staticmethod
    def appear_in(path: str) -> bool:
        """Whether a file has any of them."""
        return path in _PACKAGE


@dataclass(frozen=True)
class Start:
    """A team's tree that was made: its folder, its package, and whether git has a first commit."""

    folder: Path
    package: str
    committed: bool


def start(folder: Path, name: str = "", root: Path = ROOT) -> Start:
    """Make a team's tree in a new folder from this clone, without its history.

    The package has the folder's name unless another is named. Raises WorkspaceError for a folder
    that is taken, for a name that no package can have, and outside of a clone.
    """
    folder = folder.resolve()
    git = _clone(root)
    _refuse_folder(folder, root)
    package = name or folder.name.lower().replace("-", "_").replace(".", "_")
    tracked = [
        path for path in git("ls-files", "-z").split("\0") if path and (root / path).exists()
    ]
    before = Names.of((root / "pyproject.toml").read_text())
    _refuse_name(package, {Path(path).parts[0] for path in tracked} - {before.package})
    names = Names(package, before.upstream or _origin(git))
    committed = []

    def write(part: Path) -> None:
        for path in tracked:
            if Path(path).parts[0] not in (before.package, "README.md"):
                _copy(root / path, part / path)
        _put_names(part, names, before.package)
        _write_package(part / package)
        (part / "README.md").write_text(_README.format(name=package))
        committed.append(_first_commit(Git(part)))

    publish_folder(folder, write)
    return Start(folder, package, committed[0])


def rename(name: str, say: Callable[[str], None], root: Path = ROOT) -> Start:
    """Give this clone's package another name in place, and put a README of the team's there.

    The change is left in git's index, to be looked at and committed. The README stays if it is no
    longer Lockstep's. Raises WorkspaceError as ``start`` does, and if something is not committed.
    """
    git = _clone(root)
    with held(git.path("."), say):
        finished = change.finish(git, say)
        if finished and finished.report.get("package") == name:
            return Start(root, name, False)
        refuse_dirty(git)
        before = Names.of(git.read("HEAD", "pyproject.toml"))
        if name == before.package:
            raise WorkspaceError(f"{name}: is the package's name already; name another.")
        head = git.tree("HEAD")
        _refuse_name(name, {Path(path).parts[0] for path in head})
        change.begin(git)
        try:
            return _rename(git, head, before, Names(name, before.upstream))
        except BaseException:
            if change.pending(git) is None:
                change.discard(git)
            raise


def _rename(git: Git, head: Mapping[str, tuple[str, str]], before: Names, names: Names) -> Start:
    tree, lines = git.folder / change.TREE, list[str]()
    write, remove = list[str](), list[str]()
    for path, entry in head.items():
        top, _, rest = path.partition("/")
        if top == before.package:
            _copy(git.folder / path, tree / names.package / rest)
            lines += [*index_lines(path, {}), *index_lines(f"{names.package}/{rest}", {0: entry})]
            write, remove = [*write, f"{names.package}/{rest}"], [*remove, path]
        elif Names.appear_in(path):
            text = (git.folder / path).read_text()
            write.append(path)
            _copy(git.folder / path, tree / path)
            (tree / path).write_text(names.put_into(path, text, before.package))
    if git.read("HEAD", "README.md").startswith("# Lockstep\n"):
        (tree / "README.md").write_text(_README.format(name=names.package))
        write.append("README.md")
    for path in write:
        if path in head:
            content = git.store((tree / path).read_text())
            lines += index_lines(path, {0: (head[path][0], content)})
    commit = git("rev-parse", "HEAD").strip()
    prepared = Change(commit, write, remove, report={"package": names.package})
    prepared.prepare(git, lines)
    prepared.publish(git)
    return Start(git.folder, names.package, False)


def refuse_dirty(git: Git) -> None:
    """Raise WorkspaceError if a file that git tracks has changes that are not committed."""
    if names := git("diff", "--name-only", "HEAD").splitlines():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise WorkspaceError(
            f"{', '.join(names[:3])}{more}: edited and not committed; commit (or `git stash`), "
            "then run the same command."
        )


def _clone(root: Path) -> Git:
    git = Git(root)
    found = git.attempt("rev-parse", "--show-toplevel")
    if found.returncode or Path(os.fsdecode(found.stdout).rstrip("\n")).resolve() != root.resolve():
        raise WorkspaceError(
            f"{root}: not a clone with git; `git clone` the repository and work there."
        )
    if git.attempt("rev-parse", "--verify", "HEAD").returncode:
        raise WorkspaceError(f"{root}: has no commit; `git add --all && git commit` makes one.")
    return git


def _origin(git: Git) -> str:
    """The address that this clone came from, without a password; nothing if that is a folder."""
    address = os.fsdecode(git.attempt("remote", "get-url", "origin").stdout).strip()
    if "://" in address:
        scheme, _, rest = address.partition("://")
        return "" if scheme == "file" else f"{scheme}://{rest.rpartition('@')[2]}"
    return address if re.match(r"[\w.@-]+:", address) else ""


def _refuse_folder(folder: Path, root: Path) -> None:
    if root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise WorkspaceError(
            f"{folder}: lies in this clone, expected a folder beside it, as "
            f"{root.with_name(folder.name)}; to rename this clone's package: init --name NAME."
        )
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise WorkspaceError(f"{folder}: exists and is not empty; name another folder.")


def _refuse_name(name: str, taken: set[str]) -> None:
    """Raise WorkspaceError for what no team's package can be called."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        reason = "not a name for a Python package, expected lowercase letters, digits and _"
    elif name in sys.stdlib_module_names:
        reason = "a module of Python's own has this name"
    elif name in taken | {"tests", "data", "runs", "keys", "audit", "build", "dist"}:
        reason = "the tree has a folder or file of this name"
    elif _is_installed(name):
        reason = "an installed package has this name"
    else:
        return
    raise WorkspaceError(f"{name}: {reason}; choose another: --name NAME.")


def _is_installed(name: str) -> bool:
    spec = importlib.machinery.PathFinder.find_spec(name)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    origin = [Path(spec.origin)] if spec and spec.origin else []
    return any("site-packages" in path.parts for path in [*places, *origin])


def _copy(path: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copy, follow_symlinks=False)


def _put_names(folder: Path, names: Names, before: str) -> None:
    for name in _PACKAGE:
        if (path := folder / name).exists():
            path.write_text(names.put_into(name, path.read_text(), before))


def _write_package(folder: Path) -> None:
    """Write the package: one example's model with the catalog file of its data."""
    home = examples()
    text = (home.folder / "__init__.py").read_text()
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text(_PACKAGE_DOC + text.partition("\n")[2])
    (folder / "models" / "__init__.py").write_text(_MODELS_DOC)
    for path in sorted(home.folder_of(EXAMPLE).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            _copy(path, folder / path.relative_to(home.folder))
    _copy(home.catalog / f"{EXAMPLE}.yaml", folder / "data" / f"{EXAMPLE}.yaml")


def _first_commit(git: Git) -> bool:
    """Commit the whole tree; it stays in the index where git does not know the user's name."""
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    message = "Our models, trained with Lockstep"
    words = ("commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", message)
    return git.attempt(*words).returncode == 0
