"""Pipfile, Pipfile.lock and what else is pinned."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bootstrap
import pipfile
import pytest
from process import SetUpError

ROOT = Path(__file__).parents[2]
PIPFILE = tomllib.loads((ROOT / "Pipfile").read_text())
LOCK = json.loads((ROOT / "Pipfile.lock").read_text())
CATEGORIES = {"packages": "default", "dev-packages": "develop", "cpu": "cpu", "gpu": "gpu"}
ENTRIES = [
    (category, name, entry)
    for category in CATEGORIES.values()
    for name, entry in LOCK[category].items()
]
CUDA = re.compile("nvidia-|cuda-|triton")


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_no_index_is_named() -> None:
    assert LOCK["_meta"]["sources"] == []
    assert [name for _, name, entry in ENTRIES if "index" in entry] == []
    for file in ("Pipfile", "Pipfile.lock", "environment/bootstrap.txt"):
        assert re.findall(r"\S*://\S*", (ROOT / file).read_text()) == [], file


def test_the_lock_has_the_categories_of_the_pipfile_and_no_others() -> None:
    assert set(LOCK) - {"_meta"} == set(CATEGORIES.values())
    assert set(PIPFILE) - {"requires"} == set(CATEGORIES)


def test_every_entry_is_one_version_with_its_hashes() -> None:
    assert [name for _, name, entry in ENTRIES if not entry["version"].startswith("==")] == []
    for _, name, entry in ENTRIES:
        assert entry["hashes"], name
        assert [
            d for d in entry["hashes"] if not re.fullmatch("sha256:[0-9a-f]{64}", d)
        ] == [], name


def test_every_direct_entry_is_locked_at_the_version_asked_for() -> None:
    for category, locked in CATEGORIES.items():
        found = {name: LOCK[locked][name]["version"] for name in map(normal, PIPFILE[category])}
        wanted = {  # with extras an entry is a table
            normal(name): entry if isinstance(entry, str) else entry["version"]
            for name, entry in PIPFILE[category].items()
        }
        assert found == wanted


def test_a_package_has_the_same_version_in_all_categories_but_for_torch() -> None:
    versions: dict[str, set[str]] = {}
    for _, name, entry in ENTRIES:
        versions.setdefault(name, set()).add(entry["version"])
    assert {name: each for name, each in versions.items() if len(each) > 1} == {
        "torch": {"==2.13.0+cpu", "===2.13.0"}
    }


def test_only_the_gpu_set_has_cuda_and_only_cpu_and_gpu_have_torch() -> None:
    assert {category for category, name, _ in ENTRIES if CUDA.match(name)} == {"gpu"}
    assert {category for category, name, _ in ENTRIES if name == "torch"} == {"cpu", "gpu"}


def test_the_cpu_wheels_are_the_official_ones() -> None:
    x86_64 = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    aarch64 = "sha256:84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7"
    assert LOCK["cpu"]["torch"]["hashes"] == [x86_64, aarch64]


def test_pipenv_and_uv_are_pinned_and_hashed_with_all_they_need() -> None:
    pins = re.split(r"\n(?=\S)", (ROOT / "environment" / "bootstrap.txt").read_text().strip())
    whole = r"[\w.-]+==[\w.]+( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert [pin for pin in pins if not re.fullmatch(whole, pin)] == []
    assert {"pipenv", "uv"} <= {pin.partition("==")[0] for pin in pins}


def test_the_page_of_the_engines_dependencies_speaks_of_none_that_is_not_locked() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)`", (ROOT / "lockstep" / "docs" / "dependencies.md").read_text(), re.M
    )
    direct = {name for category in CATEGORIES for name in PIPFILE[category]}
    assert len(rows) == len(set(rows)) > 30
    assert set(rows) <= direct | {"pipenv", "uv"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what locking needs, with a bare environment for pipenv to be put beside."""
    folder = tmp_path_factory.mktemp("locking")
    shutil.copytree(ROOT / "environment", folder / "environment")
    for name in ("Pipfile", "Pipfile.lock"):
        shutil.copy(ROOT / name, folder)
    bare = [sys.executable, "-m", "venv", "--without-pip", folder / ".venv"]
    subprocess.run([str(word) for word in bare], check=True)
    return folder


def python(tree: Path, *words: str) -> Any:
    variables = os.environ | {"PYTHONPATH": str(tree / "environment")}
    command = [str(tree / ".venv" / "bin" / "python"), *words]
    return subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)


VERIFY = """
import installers, lock, process
process.run("verifying", (installers.tool("pipenv"), "verify"), **lock.neutral(process.ROOT, {}))
"""


@pytest.mark.slow
def test_pipenv_finds_that_pipfile_and_lock_agree(tree: Path) -> None:
    agreed = python(tree, "-c", VERIFY)
    assert agreed.returncode == 0, agreed.stderr
    asked = (tree / "Pipfile").read_text()
    (tree / "Pipfile").write_text(asked.replace("[packages]", '[packages]\nsix = "*"'))
    assert "Pipfile.lock is out-of-date" in python(tree, "-c", VERIFY).stderr
    (tree / "Pipfile").write_text(asked)


DIGEST = """
import installers, lockfile, process
pipfile = (process.ROOT / "Pipfile").read_text()
print(lockfile.pipfile_digest(pipfile, installers.default_index()))
"""
PIPFILES = (
    '[packages]\nPyYAML = "*"\n',
    '[requires]\npython_version = "3.11"\n[dev-packages]\nA_b = {version = "*", extras = ["c"]}\n',
    '[[source]]\nname = "n"\nurl = "file:///n"\nverify_ssl = false\n[gpu]\nA = "*"\n',
    '[packages]\n[scripts]\nshow = "true"\n[pipenv]\nallow_prereleases = true\n',
)


@pytest.mark.slow
def test_our_digest_of_a_pipfile_is_the_one_that_pipenv_wants(tree: Path) -> None:
    pipfile, lock = tree / "Pipfile", tree / "Pipfile.lock"
    before = pipfile.read_text(), lock.read_text()
    assert python(tree, "-c", VERIFY).returncode == 0
    assert python(tree, "-c", DIGEST).stdout.strip() == LOCK["_meta"]["hash"]["sha256"]
    for text in PIPFILES:
        pipfile.write_text(text + '[cpu]\ntorch = "==2.13.0+cpu"\n')
        digest = python(tree, "-c", DIGEST).stdout.strip()
        lock.write_text(json.dumps({"_meta": LOCK["_meta"] | {"hash": {"sha256": digest}}}))
        agreed = python(tree, "-c", VERIFY)
        assert agreed.returncode == 0, (text, agreed.stderr)
    pipfile.write_text(before[0])
    lock.write_text(before[1])


@pytest.mark.slow
def test_locking_twice_gives_the_same_bytes_without_a_trace_of_the_machine(tree: Path) -> None:
    few = '[packages]\niniconfig = "*"\n[cpu]\ntorch = "==2.13.0+cpu"\n[gpu]\nxxhash = "===4.1.0"\n'
    (tree / "Pipfile").write_text(few + '[requires]\npython_version = "3.11"\n')
    locks = []
    for _ in range(2):
        done = python(tree, "environment/lock.py")
        assert done.returncode == 0, done.stderr
        locks.append((tree / "Pipfile.lock").read_bytes())
    assert done.stdout == "Pipfile.lock: as it was\n"
    assert locks[0] == locks[1]
    assert b"://" not in locks[0] and b'"index"' not in locks[0]
    again = json.loads(locks[0])
    assert again["cpu"]["torch"]["hashes"] == LOCK["cpu"]["torch"]["hashes"]
    assert again["gpu"]["xxhash"]["version"] == "===4.1.0"  # three equals signs stay three
    for name in ("Pipfile", "Pipfile.lock"):
        shutil.copy(ROOT / name, tree)


SMALL = """\
# Ours.
[packages]
alpha = "==1.0" # it answers
"zope.event" = "==6.0"

[dev-packages]
beta = {version = "==1.0", extras = ["fast"]}
"""


def test_a_package_gets_a_line_at_its_place_and_loses_it_again() -> None:
    added = pipfile.add(SMALL, "Gamma==2.0", "packages")
    assert added == SMALL.replace('"zope', 'Gamma = "==2.0"\n"zope')
    assert pipfile.remove(added, "gamma") == SMALL
    extras = pipfile.add(SMALL, "gamma[b,a]", "dev-packages")
    assert extras == SMALL + 'gamma = {version = "*", extras = ["a", "b"]}\n'
    assert pipfile.add(SMALL, "beta==2.0", "dev-packages") == SMALL.replace(
        'beta = {version = "==1.0"', 'beta = {version = "==2.0"'
    )
    assert pipfile.remove(SMALL, "zope-event") == SMALL.replace('"zope.event" = "==6.0"\n', "")
    assert pipfile.add("", "gamma==1", "packages") == '\n[packages]\ngamma = "==1"\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: pipfile.add(text, "beta", "packages"),
            r"beta: is in \[dev-packages\] of the Pipfile, expected nowhere or in \[packages\]",
        ),
        (
            lambda text: pipfile.add(text, "gamma>1", "packages"),
            "gamma>1: not a package, expected NAME or NAME==VERSION",
        ),
        (
            lambda text: pipfile.remove(text, "alpah"),
            r"alpah: not in the Pipfile\. Did you mean alpha\?",
        ),
        (
            lambda text: pipfile.remove(text + "[packages.x]\nversion = '==1'\n", "x"),
            r"\[packages\]: expected one line for each package; edit x by hand",
        ),
        (lambda text: pipfile.remove(text + "=", "alpha"), "Pipfile: found .+, expected TOML"),
        (
            lambda text: pipfile.requirement("alpha", {"git": "somewhere"}),
            "Pipfile: alpha: found git, expected only version, extras and markers",
        ),
    ],
)
def test_what_cannot_be_locked_is_refused_in_one_line(
    change: Callable[[str], str], message: str
) -> None:
    with pytest.raises(SetUpError, match=f"^(Pipfile: )?{message}"):
        change(SMALL)


def differing(lock: Any) -> dict[str, str]:
    """Category and name of each entry that is not as in this tree's lock, with its version."""
    return {
        f"{category}: {name}": entry["version"]
        for category in CATEGORIES.values()
        for name, entry in lock[category].items()
        if LOCK[category].get(name) != entry
    }


@pytest.mark.slow
def test_adding_upgrading_and_removing_a_package_leaves_all_others_to_the_byte(tree: Path) -> None:
    before = [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")]
    added = python(tree, "environment/lock.py", "--add", "tomlkit==0.13.2")
    assert (added.returncode, added.stdout) == (0, "default: tomlkit (none) -> 0.13.2\n")
    assert differing(json.loads((tree / "Pipfile.lock").read_text())) == {
        "default: tomlkit": "==0.13.2"
    }
    assert python(tree, "-c", VERIFY).returncode == 0

    upgraded = python(tree, "environment/lock.py", "--upgrade", "tomlkit")
    moved = re.fullmatch(r"default: tomlkit 0\.13\.2 -> (\S+)\n", upgraded.stdout)
    assert moved, upgraded.stderr
    version = f"=={moved[1]}"
    assert differing(json.loads((tree / "Pipfile.lock").read_text())) == {
        "default: tomlkit": version
    }
    assert tomllib.loads((tree / "Pipfile").read_text())["packages"]["tomlkit"] == version
    for name in ("Pipfile", "Pipfile.lock"):
        assert "://" not in (tree / name).read_text()

    # A file that no index of this machine offers stays as long as the version does.
    lock = json.loads((tree / "Pipfile.lock").read_text())
    hashes = sorted([*lock["default"]["tomlkit"]["hashes"], f"sha256:{'0' * 64}"])
    lock["default"]["tomlkit"]["hashes"] = hashes
    (tree / "Pipfile.lock").write_text(json.dumps(lock, indent=4, sort_keys=True) + "\n")
    again = python(tree, "environment/lock.py", "--upgrade", "tomlkit")
    assert (again.returncode, again.stdout) == (0, "Pipfile.lock: as it was\n")
    assert json.loads((tree / "Pipfile.lock").read_text()) == lock

    removed = python(tree, "environment/lock.py", "--remove", "tomlkit")
    assert (removed.returncode, removed.stdout) == (0, f"default: tomlkit {moved[1]} -> (none)\n")
    assert [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")] == before


@pytest.mark.slow
def test_what_cannot_be_had_or_fitted_is_one_line_and_changes_nothing(tree: Path) -> None:
    before = [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")]
    for spec, message in {
        "tomlkit==99.9": r"a package is not offered \(tomlkit==99\.9\)",
        "numba==0.57.0": r"the versions exclude each other \(numba==0\.57\.0 depends on numpy",
    }.items():
        done = python(tree, "environment/lock.py", "--add", spec)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.search(message, done.stderr.splitlines()[-1]), done.stderr
    assert [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")] == before


@pytest.mark.slow
def test_killed_while_it_locks_it_leaves_both_files_as_they_were(tree: Path) -> None:
    before = [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")]
    adding = subprocess.Popen(
        [tree / ".venv" / "bin" / "python", "environment/lock.py", "--add", "tomlkit"],
        cwd=tree, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert adding.stderr
    assert any("locking" in line for line in adding.stderr)
    os.killpg(adding.pid, signal.SIGKILL)
    adding.communicate()
    assert [(tree / name).read_bytes() for name in ("Pipfile", "Pipfile.lock")] == before


def test_what_only_the_torch_of_cuda_needs_is_locked_for_linux_alone() -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    only = {name: lock["gpu"][name] for name in lock["gpu"].keys() - lock["cpu"].keys()}
    markers = {name: entry.get("markers", "") for name, entry in only.items()}
    assert [name for name, marker in markers.items() if "inux'" not in marker] == []
    assert "linux" not in lock["gpu"]["torch"].get("markers", "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_torch_is_for_the_cpu_where_no_nvidia_device_is(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCKSTEP_TORCH", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(bootstrap, "has_nvidia_device", lambda: False)
    assert [bootstrap.choose_torch(present) for present in ("", "cpu", "gpu")] == [
        *("cpu", "cpu", "gpu")  # what is there stays
    ]
    monkeypatch.setattr(bootstrap, "has_nvidia_device", lambda: True)
    assert bootstrap.choose_torch("") == "gpu"


def test_macos_has_one_torch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("LOCKSTEP_TORCH", raising=False)
    assert bootstrap.choose_torch("") == "gpu"
    monkeypatch.setenv("LOCKSTEP_TORCH", "cpu")
    with pytest.raises(SetUpError, match=r"^LOCKSTEP_TORCH: found 'cpu', expected none on macOS"):
        bootstrap.choose_torch("")
