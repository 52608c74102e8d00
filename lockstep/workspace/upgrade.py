"""``invoke upgrade``: another engine in ``lockstep/``, and a merge of what engine and team share.

Three trees are merged: the one that this engine came from, the team's, and the new one. They are
reduced to the files that the engine's repository brings, without a team's own, and taken from
commits that have no other history. So it does not matter whether the team's tree shares one.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lockstep.ground.errors import WorkspaceError, public
from lockstep.ground.files import held
from lockstep.ground.processes import follow_parent
from lockstep.workspace import change
from lockstep.workspace.change import Change, index_lines
from lockstep.workspace.engine import MANIFEST
from lockstep.workspace.git import Entry, Git
from lockstep.workspace.pins import merge_pins
from lockstep.workspace.start import TEAM, Names, refuse_dirty

_ENGINE = "lockstep/"
_MANIFEST = _ENGINE + MANIFEST
_VERSION = _ENGINE + "__init__.py"
_LOCK = "Pipfile.lock"
_TAG = re.compile(r"v?(\d+(?:\.\d+)*)")
Say = Callable[[str], None]


@dataclass
class Report:
    """What an upgrade did: versions, then paths; ``lock`` describes what became of Pipfile.lock.

    ``locked`` has a line for each package whose version changed in a new lock. ``edited`` are files
    of the engine in which the team's edits were merged, ``merged`` the other files that changed,
    ``notes`` what was decided where one side had removed a file.
    """

    before: str
    after: str
    edited: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lock: str = "as it was"
    locked: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether the engine changed."""
        return self.before != self.after


@dataclass(frozen=True)
class Steps:
    """What to do besides merging; each step may be left out.

    ``before`` is called with the report and the folder of the new tree, right before it replaces
    the old one. ``upgrade`` returns its result, even if it was killed and another process finished.
    """

    lock: bool = True
    publish: bool = True
    before: Callable[[Report, Path], dict[str, Any]] = lambda *_: {}


def upgrade(
    root: Path, tag: str, source: str, steps: Steps, say: Say
) -> tuple[Report, dict[str, Any]]:
    """Upgrade a tree to the engine of a tag, by default the newest, of the repository ``source``.

    The result is staged and in the files; conflicts are marked in both, as after ``git merge``.
    Returns the report and the result of ``steps.before``. Finishes an upgrade that was killed while
    it replaced files. Raises WorkspaceError, with nothing changed, for uncommitted edits, for a
    repository or tag that cannot be read, and for a lock that cannot be made.
    """
    git = Git(root)
    if git.attempt("rev-parse", "--verify", "HEAD").returncode:
        raise WorkspaceError(
            f"{root}: no commit found, expected a clone with git; `git init && git add --all && "
            "git commit` makes it one."
        )
    with held(git.path("."), say) as lock:
        git = Git(root, lock)
        finished = change.finish(git, say)
        if finished and "upgrade" in finished.report:
            return Report(**finished.report["upgrade"]), finished.report["before"]
        _refuse_merging(git)
        _refuse_upgraded(git)
        refuse_dirty(git)
        source = source or _upstream(git)
        change.begin(git)
        try:
            return _upgrade(git, tag, source, steps, say)
        except BaseException:
            if change.pending(git) is None:  # or else the next call finishes it
                change.discard(git)
            raise


def _upgrade(
    git: Git, tag: str, source: str, steps: Steps, say: Say
) -> tuple[Report, dict[str, Any]]:
    work = Git(git.folder / change.TREE, git.lock)
    _fetch(git, work, source, say)
    trees = _Trees(work, source, tag)
    report = Report(trees.version, _version(work, trees.next))
    if trees.version_tag == trees.next_tag:
        change.discard(git)
        return report, {}
    say(f"merging engine {report.after}, from {report.before}")
    _merge(work, trees, report)
    _lock(git, work, trees, report, steps.lock, say)
    before = steps.before(report, work.folder)
    if not steps.publish:
        change.discard(git)
        return report, before
    prepared = _prepare(git, work, trees, report, before)
    prepared.publish(git)
    return report, before


def _refuse_merging(git: Git) -> None:
    for name in ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply"):
        if git.path(name).exists():
            raise WorkspaceError(
                f"{git.folder}: git is in the middle of a merge or rebase ({name}); finish it or "
                "abort it (`git status` says how), then run the same command."
            )


def _refuse_upgraded(git: Git) -> None:
    if git.attempt("cat-file", "-e", f":{_VERSION}").returncode == 0:
        before, after = _version(git, "HEAD"), _version(git, "")
        if before != after:
            raise WorkspaceError(
                f"engine {after}: merged but not committed; run ./workbench test and git commit, "
                f"or return to {before} with git reset --hard."
            )


def _upstream(git: Git) -> str:
    if upstream := Names.of(git.read("HEAD", "pyproject.toml")).upstream:
        folder = git.folder / upstream
        return str(folder) if folder.exists() else upstream
    raise WorkspaceError(
        "upstream: not set, expected the engine's repository; name it by --from REPOSITORY, or "
        "permanently in pyproject.toml: [tool.lockstep] upstream."
    )


def _fetch(git: Git, work: Git, source: str, say: Say) -> None:
    """Clone the tree into a hidden folder and fetch the tags of the engine's repository."""
    say(f"fetching the engine's versions from {public(source)}")
    git("clone", "--quiet", "--shared", "--no-checkout", "--no-tags", ".", str(work.folder))
    if Path(source).exists():
        source = str(Path(source).resolve())
    done = work.attempt("fetch", "--quiet", "--no-tags", source, "+refs/tags/*:refs/tags/*")
    if done.returncode:
        lines = [line for line in done.stderr.decode().splitlines() if line.strip()]
        raise WorkspaceError(
            f"{public(source)}: cannot be read as a git repository "
            f"({public(lines[0]) if lines else 'no reason given'}); check the address, or name "
            "another: --from REPOSITORY."
        )


class _Trees:
    """The three trees: ``base``, ``ours`` and ``next``, as commits and as path to entry."""

    def __init__(self, git: Git, source: str, tag: str):
        tags = git("tag", "--list").split()
        self.version = _version(git, "HEAD")
        self.version_tag = _find(tags, self.version, source)
        self.next_tag = _find(tags, tag, source) if tag else _newest(tags, source)
        self.next = f"refs/tags/{self.next_tag}"
        self.base = _base(git, f"refs/tags/{self.version_tag}", self.next)
        self.names = Names.of(git.read("HEAD", "pyproject.toml"))
        base, ours, new = (git.tree(commit) for commit in (self.base, "HEAD", self.next))
        shared = {path.partition("/")[0] for path in base | new} - TEAM - {self.names.package}
        for commit in (self.base, self.next):
            shared -= {Names.of(git.read(commit, "pyproject.toml")).package}
        self.all_ours = ours
        self.locks = [tree.get(_LOCK) for tree in (base, ours, new)]
        self.ours = _only(ours, shared)
        base, new = (self._in_our_name(git, _only(tree, shared)) for tree in (base, new))
        self.edited = [
            path
            for path in sorted(base | self.ours)
            if path.startswith(_ENGINE) and path != _MANIFEST
            if base.get(path) != self.ours.get(path)
        ]
        for tree in (base, self.ours):  # generated, so the new one replaces it
            tree.pop(_MANIFEST, None)
            tree |= {_MANIFEST: new[_MANIFEST]} if _MANIFEST in new else {}
        base_commit = git.commit(base, f"Lockstep {self.version}")
        self.commits = {
            "base": base_commit,
            "ours": git.commit(self.ours, "ours", base_commit),
            "next": git.commit(new, f"Lockstep {_version(git, self.next)}", base_commit),
        }

    def _in_our_name(self, git: Git, tree: dict[str, Entry]) -> dict[str, Entry]:
        """The tree with the team's package where the engine's repository names its own."""
        before = Names.of(git("cat-file", "blob", tree["pyproject.toml"][1])).package
        for path, (mode, content) in tree.items():
            if Names.appear_in(path):
                text = git("cat-file", "blob", content)
                tree[path] = (mode, git.store(self.names.put_into(path, text, before)))
        return tree


def _version(git: Git, commit: str) -> str:
    text = git.read(commit, _VERSION)
    version = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    if not version:
        raise WorkspaceError(f"{_VERSION}: no __version__ found in {commit}; restore the file.")
    return version[1]


def _find(tags: Sequence[str], name: str, source: str) -> str:
    for tag in (name, f"v{name}", name.removeprefix("v")):
        if tag in tags:
            return tag
    listed = ", ".join(sorted(tags)) or "none"
    raise WorkspaceError(
        f"{name}: no such tag in {public(source)} (it has {listed}); name another, or another "
        "repository: --from REPOSITORY."
    )


def _newest(tags: Sequence[str], source: str) -> str:
    """The tag of the highest version; others, such as 2.0.0rc1, have to be named."""
    versions = {tag: match[1] for tag in tags if (match := _TAG.fullmatch(tag))}
    if not versions:
        raise WorkspaceError(f"{public(source)}: no version found among its tags; name a tag.")
    return max(versions, key=lambda tag: [int(part) for part in versions[tag].split(".")])


def _base(git: Git, tag: str, new: str) -> str:
    """The commit that this engine came from: its version's tag, or a later one in our history."""
    shared = git.attempt("merge-base", "HEAD", new).stdout.decode().strip()
    later = shared and git.attempt("merge-base", "--is-ancestor", tag, shared).returncode == 0
    return shared if later else tag


def _only(tree: dict[str, Entry], tops: set[str]) -> dict[str, Entry]:
    return {path: entry for path, entry in tree.items() if path.partition("/")[0] in tops}


def _merge(work: Git, trees: _Trees, report: Report) -> None:
    """Merge the three trees into the folder, and decide where one side removed a file."""
    work("checkout", "--quiet", "--detach", trees.commits["ours"])
    words = ("-c", "merge.directoryRenames=false", "cherry-pick", "--no-commit")
    done = work.attempt(*words, trees.commits["next"])
    unmerged = _unmerged(work)
    if done.returncode and not unmerged:
        raise WorkspaceError(f"merging failed: {done.stderr.decode().strip().splitlines()[-1]}")
    for path, stages in unmerged.items():
        if stages == {1, 3}:
            work("rm", "--quiet", "--force", "--", path)
            report.notes.append(f"{path}: changed in {report.after}; stays removed, as you did")
        elif stages == {1, 2}:
            work("add", "--", path)
            report.notes.append(f"{path}: removed in {report.after}; kept, as you edited it")
        elif path == "Pipfile" and (text := _pins(work)):
            (work.folder / path).write_text(text)
            work("add", "--", path)
        else:
            report.conflicts.append(path)
    report.edited = trees.edited
    status = work("diff", "--name-only", "-z", trees.commits["ours"]).split("\0")
    report.merged = sorted({path for path in status if path and not path.startswith(_ENGINE)})


def _unmerged(git: Git) -> dict[str, set[int]]:
    unmerged: dict[str, set[int]] = {}
    for line in git("ls-files", "--unmerged", "-z").split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            unmerged.setdefault(path, set()).add(int(facts.split()[2]))
    return unmerged


def _pins(git: Git) -> str | None:
    base, ours, new = (git("cat-file", "blob", f":{stage}:Pipfile") for stage in (1, 2, 3))
    return merge_pins(base, ours, new)


def _lock(git: Git, work: Git, trees: _Trees, report: Report, locks: bool, say: Say) -> None:
    """Write the merged Pipfile's lock: ours, the new engine's, or one made from it."""
    base, ours, new = trees.locks
    if "Pipfile" in report.conflicts:
        report.lock = "not made: resolve Pipfile, then run `invoke lock`"
        return
    if not (work.folder / "Pipfile").exists() or ours is None:
        return
    merged = tomllib.loads((work.folder / "Pipfile").read_text())
    mine, theirs = (
        tomllib.loads(work.read(trees.commits[name], "Pipfile")) for name in ("ours", "next")
    )
    if merged not in (mine, theirs):
        _make_lock(git, work, ours, report, locks, say)
        return
    # Where nobody changed the Pipfile the new lock counts, unless the team has locked by itself.
    chosen = ours if merged != theirs or (merged == mine and ours != base) else new or ours
    (work.folder / _LOCK).write_text(work("cat-file", "blob", chosen[1]))
    report.lock = "as it was" if chosen == ours else f"from {report.after}"


def _make_lock(git: Git, work: Git, ours: Entry, report: Report, locks: bool, say: Say) -> None:
    (work.folder / _LOCK).write_text(work("cat-file", "blob", ours[1]))
    if not locks:
        report.lock = "not made: run `invoke lock`"
        return
    say("locking the merged Pipfile")
    command = [sys.executable, str(git.folder / "environment" / "lock.py"), str(work.folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, pass_fds=(git.lock,), preexec_fn=follow_parent
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkspaceError(
            f"Pipfile.lock: cannot be made from the merged Pipfile: {reason}. Nothing was changed; "
            "upgrade with --no-lock to look at the Pipfile first."
        )
    report.lock, report.locked = "made from the merged Pipfile", done.stdout.strip().splitlines()


def _prepare(git: Git, work: Git, trees: _Trees, report: Report, before: dict[str, Any]) -> Change:
    """Fetch the objects of the merged files and write the plan."""
    stages: dict[str, dict[int, Entry]] = {path: {} for path in trees.ours}
    for line in work("ls-files", "--stage", "-z").split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, content, stage = facts.split()
            stages.setdefault(path, {})[int(stage)] = (mode, content)
    if (lock := work.folder / _LOCK).exists():
        mode, content = trees.all_ours[_LOCK][0], work.store(lock.read_text())
        stages[_LOCK] = {0: (mode, content)}
    whole = {path: entries[0] for path, entries in stages.items() if 0 in entries}
    merged = work.commit(whole, f"Lockstep {report.after}")
    names = []
    for name, commit in (trees.commits | {"merged": merged}).items():
        names.append(f"refs/heads/lockstep-{name}")
        work("update-ref", names[-1], commit)
    git("fetch", "--quiet", "--no-tags", str(work.folder), *names)
    old = trees.all_ours
    # What the manifest was here did not count in the merge, but it does in the index.
    changed = {path: entries for path, entries in stages.items() if entries != _stage(old, path)}
    prepared = Change(
        head=git("rev-parse", "HEAD").strip(),
        write=sorted(path for path in changed if os.path.lexists(work.folder / path)),
        remove=sorted(path for path in changed if not os.path.lexists(work.folder / path)),
        engine=_engine(work, changed),
        report={"upgrade": asdict(report), "before": before},
    )
    shutil.rmtree(work.folder / ".git")
    prepared.prepare(
        git, [line for p, entries in changed.items() for line in index_lines(p, entries)]
    )
    return prepared


def _stage(tree: dict[str, Entry], path: str) -> dict[int, Entry]:
    return {0: tree[path]} if path in tree else {}


def _engine(work: Git, changed: dict[str, dict[int, Entry]]) -> int:
    """The inode of the new engine's folder, or 0 if nothing in it changes."""
    if any(path.startswith(_ENGINE) for path in changed):
        return (work.folder / _ENGINE).stat().st_ino
    return 0
