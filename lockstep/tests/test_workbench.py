"""./workbench on small trees of its own, with real installers and a real package index."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import image
import pytest

from lockstep.records.source import imports
from lockstep.tests.trees import FIRST, INVOKE, LOCK, ROOT, Index, Tree, files, served, write_wheel

pytestmark = pytest.mark.slow  # environments are made

both = pytest.mark.parametrize("installer", ["uv", "pipenv"])
WAITING = "workbench: another set-up of .venv is running, waiting for it\n"


def until(true: Any) -> None:
    while not true():
        time.sleep(0.005)


@pytest.mark.slow
def test_the_real_lock_gives_the_same_set_with_uv_after_a_kill_as_with_pipenv(
    tmp_path: Path, house: Path
) -> None:
    sets = {}
    for installer in ("uv", "pipenv"):
        tree = Tree(tmp_path / installer, house)
        tree.alone = False
        shutil.copy(ROOT / "Pipfile", tree.folder)
        shutil.copy(ROOT / "Pipfile.lock", tree.folder)
        if installer == "uv":
            process = tree.start()
            until(lambda site=tree.site: len([*site.glob("*.dist-info")]) > 4)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert not (tree.venv / "stamp").exists()
        code, _, err = tree.call(LOCKSTEP_INSTALLER=installer)
        assert code == 0, err
        found = importlib.metadata.distributions(path=[str(tree.site)])
        sets[installer] = {f"{normal(each.name)}=={each.version}" for each in found}
    locked: dict[str, str] = {}
    for category in ("default", "develop", "cpu"):
        locked |= {
            normal(name): entry["version"].lstrip("=") for name, entry in LOCK[category].items()
        }
    assert (
        sets["uv"] == sets["pipenv"] == {f"{name}=={version}" for name, version in locked.items()}
    )


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.slow
@both
def test_a_bare_tree_a_changed_lock_and_another_torch_all_end_in_the_locked_set(
    tree: Tree, installer: str
) -> None:
    settings = {"LOCKSTEP_INSTALLER": installer}
    assert tree.packages(**settings) == FIRST
    (tree.venv / "kept").touch()
    tree.lock("alpha==1.1", "gamma==1.0")  # one changed, one gone, one new
    changed = {INVOKE, "alpha==1.1", "gamma==1.0"}
    assert tree.packages(**settings) == changed | {"torch==2.13.0+cpu"}
    assert (tree.venv / "kept").exists()  # it was updated, not made from scratch
    # 2.13.0+cpu is offered as well; it would satisfy ==2.13.0.
    assert tree.packages(**settings, LOCKSTEP_TORCH="gpu") == changed | {"torch==2.13.0"}
    assert tree.packages(**settings, LOCKSTEP_TORCH="") == changed | {"torch==2.13.0"}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, house: Path) -> Tree:
    """A tree whose environment is made, not to be changed."""
    tree = Tree(tmp_path_factory.mktemp("whole") / "a tree", house)
    tree.packages()
    return tree


@pytest.mark.slow
def test_an_unchanged_lock_starts_no_set_up_and_says_nothing(whole: Tree) -> None:
    none = {"LOCKSTEP_PYTHON": "/no/python"}
    assert whole.call("prefix", **none) == (0, f"{whole.venv}\n", "")
    assert "Available tasks" in whole.call(**none)[1]  # without a task: which there are
    assert whole.call("no-such-task", **none)[0] == 1


@pytest.mark.slow
def test_the_packages_of_a_tree_can_be_imported_from_any_folder(
    whole: Tree, tmp_path: Path
) -> None:
    where = "import package; print(package.__file__)"
    python = [str(whole.venv / "bin" / "python"), "-c", where]
    found = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True).stdout
    assert found == f"{whole.folder / 'package' / '__init__.py'}\n"


@pytest.mark.slow
def test_a_tree_that_was_copied_gets_an_environment_of_its_own(whole: Tree, tmp_path: Path) -> None:
    copied = whole.copied(tmp_path / "there")
    code, out, _ = copied.call("prefix")
    assert (code, out) == (0, f"{tmp_path / 'there' / '.venv'}\n")
    scripts = [path for path in (copied.venv / "bin").iterdir() if path.is_file()]
    assert [path for path in scripts if str(whole.folder).encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_two_calls_at_once_make_one_environment(tree: Tree, index: Index) -> None:
    index.open.clear()
    first = tree.start("packages", **served(index))
    until(lambda: any("alpha" in path for path in index.asked))
    second = tree.start("packages", **served(index))
    assert second.stderr is not None
    assert second.stderr.readline() == WAITING
    index.open.set()
    outs = [process.communicate() for process in (first, second)]
    assert [set(out.split()) for out, _ in outs] == [FIRST, FIRST]
    assert outs[1][1] == ""  # the second found it done


@pytest.mark.slow
@both
def test_an_installer_that_outlives_its_killed_launcher_is_waited_for(
    tree: Tree, index: Index, installer: str
) -> None:
    index.open.clear()
    first = tree.start("packages", **served(index), LOCKSTEP_INSTALLER=installer)
    until(lambda: any("alpha" in path for path in index.asked))
    installers = kill_all_but_leaves(first.pid)  # uv, or the pips that pipenv started
    (tree.site / "half.py").touch()
    second = tree.start("packages", **served(index))
    assert second.stderr is not None
    assert second.stderr.readline() == WAITING
    assert any(Path(f"/proc/{pid}").exists() for pid in installers)
    index.open.set()
    out, err = second.communicate()
    assert (second.returncode, set(out.split())) == (0, FIRST), err
    assert not (tree.site / "half.py").exists()  # nothing of the orphan's work was trusted
    first.communicate()


def kill_all_but_leaves(pid: int) -> list[int]:
    """Kill a process and those below it with SIGKILL, but not those that have no children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if not children:
        return [pid]
    os.kill(pid, signal.SIGKILL)
    return [leaf for child in children for leaf in kill_all_but_leaves(int(child))]


@pytest.mark.slow
def test_an_interrupted_change_is_made_from_scratch(tree: Tree, index: Index) -> None:
    tree.packages(**served(index))
    tree.lock("alpha==1.1")
    index.open.clear()
    index.asked.clear()
    process = tree.start("packages", **served(index))
    until(lambda: any("alpha" in path for path in index.asked))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    index.open.set()
    (tree.site / "half.py").touch()
    tree.lock("alpha==1.0", "beta==1.0")  # the lock it was made from before
    assert tree.packages(**served(index)) == FIRST
    assert not (tree.site / "half.py").exists()


@pytest.mark.slow
@both
def test_a_wrong_hash_is_refused_by_name_and_the_next_call_repairs(
    tree: Tree, installer: str
) -> None:
    tree.lock("alpha==1.0", "beta==1.0", spoil="alpha")
    code, out, err = tree.call("packages", LOCKSTEP_INSTALLER=installer)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"workbench: installing the locked packages with {installer}: found a file with another"
        " sha256 than in Pipfile.lock (alpha==1.0); ask who runs the package index, or run"
        " `invoke lock --upgrade` if the new file is right, then try again;"
        f" the whole log is {tree.venv / 'setup.log'}"
    )
    tree.lock("alpha==1.0", "beta==1.0")
    assert tree.packages() == FIRST


@both
def test_a_platform_of_which_the_lock_has_no_file_is_not_taken_for_tampering(
    tree: Tree, installer: str, tmp_path: Path
) -> None:
    links, machine = tmp_path / "links", platform.machine()
    shutil.copytree(tree.house, links, ignore=shutil.ignore_patterns("cache", "tools"))
    tags = [f"cp311-cp311-{sys.platform}_{name}" for name in (machine, "s390x", "ppc64le")]
    wheels = [write_wheel(links, "alpha", "2.0", tag) for tag in tags]
    here, s390x, ppc64le = (hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)

    def refusal(*digests: str) -> str:
        lock = json.loads((tree.folder / "Pipfile.lock").read_text())
        hashes = [f"sha256:{digest}" for digest in digests]
        lock["default"]["alpha"] = {"version": "==2.0", "hashes": hashes}
        (tree.folder / "Pipfile.lock").write_text(json.dumps(lock))
        code, out, err = tree.call(LOCKSTEP_INSTALLER=installer, PIP_FIND_LINKS=str(links))
        assert (code, out) == (2, "")
        return err.splitlines()[-1]

    assert refusal(s390x, ppc64le) == (
        "workbench: alpha==2.0: Pipfile.lock has no sha256 of its file for this platform, "
        f"{wheels[0].name} (it has {wheels[2].name}, {wheels[1].name}); if sha256:{here} is right "
        "by a source that you trust, add it to the hashes of alpha in Pipfile.lock, then try again"
    )
    # What is offered for this platform is not the file that was locked for it.
    assert "found a file with another sha256" in refusal(s390x, ppc64le, "0" * 64)
    assert "found a file with another sha256" in refusal("0" * 64)


@both
def test_where_pip_and_python_are_told_to_look_elsewhere_does_not_show(
    tree: Tree, tmp_path: Path, installer: str
) -> None:
    elsewhere = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME")
    settings = {name: str(tmp_path / name) for name in elsewhere} | {"PIP_USER": "1"}
    (tmp_path / "pip.conf").write_text("[global]\nuser = true\n")
    settings |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "LOCKSTEP_INSTALLER": installer}
    assert tree.packages(**settings) == FIRST
    assert [name for name in elsewhere if (tmp_path / name).exists()] == []


@pytest.mark.slow
def test_an_index_that_does_not_answer_is_named(tree: Tree, index: Index) -> None:
    settings = served(index)
    index.server_close()
    code, _, err = tree.call("packages", **settings | {"PIP_RETRIES": "1"})
    assert code == 2
    assert err.splitlines()[-1] == (
        "workbench: fetching uv: no package index answered (/simple/uv/); check the network and"
        " pip's index-url, proxy, cert, find-links (pip config list), then try again;"
        f" the whole log is {tree.venv / 'setup.log'}"
    )


@pytest.mark.slow
def test_pips_proxy_and_all_of_its_indexes_are_used(
    tree: Tree, index: Index, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "alpha").mkdir(parents=True)  # an index that has another alpha, as extra indexes may
    write_wheel(other / "alpha", "alpha", "1.1")
    wheel = '<a href="alpha-1.1-py3-none-any.whl">alpha-1.1-py3-none-any.whl</a>'
    (other / "alpha" / "index.html").write_text(wheel)
    settings = served(index) | {
        "PIP_INDEX_URL": "http://index.invalid/simple",
        "PIP_EXTRA_INDEX_URL": other.as_uri(),
        "PIP_TRUSTED_HOST": "index.invalid",
        "PIP_PROXY": index.address,
        "LOCKSTEP_INSTALLER": "uv",
    }
    assert tree.packages(**settings) == FIRST
    assert {urllib.parse.urlsplit(path).netloc for path in index.asked} == {"index.invalid"}


@pytest.mark.slow
def test_the_cpu_wheels_address_is_asked_for_torch_alone_and_only_where_it_is_needed(
    tree: Tree, index: Index, tmp_path: Path
) -> None:
    lead_to(index, tree)
    assert tree.packages() == FIRST
    assert index.asked == []
    (tree.venv / "stamp").unlink()
    assert tree.packages(**lacking(tree, tmp_path, "*+cpu*")) == FIRST
    assert set(index.asked) == {"/whl/cpu/torch/", "/torch-2.13.0+cpu-py3-none-any.whl"}


@pytest.mark.slow
def test_where_uv_is_not_offered_pipenv_stands_in(tree: Tree, index: Index, tmp_path: Path) -> None:
    lead_to(index, tree)
    code, out, err = tree.call("packages", **lacking(tree, tmp_path, "*+cpu*", "uv-*"))
    assert (code, set(out.split())) == (0, FIRST), err
    assert "not offered (uv==" in err and "Continuing with pipenv" in err
    assert set(index.asked) == {"/whl/cpu/torch/", "/torch-2.13.0+cpu-py3-none-any.whl"}


# One that names a source: its digest, which an image checks, needs no address of an index.
PIPFILE = '[[source]]\nname = "none"\nurl = "file:///none"\nverify_ssl = true\n[packages]\n'
OTHER = "workbench: Pipfile.lock: made from another Pipfile"


@pytest.fixture
def image_tree(tree: Tree) -> Tree:
    """A tree whose lock is of its Pipfile."""
    (tree.folder / "Pipfile").write_text(PIPFILE)
    tree.lock("alpha==1.0", "beta==1.0", dev="gamma==1.0")
    return tree


@pytest.mark.slow
def test_an_image_is_not_made_from_the_lock_of_another_pipfile_but_a_clone_works(
    image_tree: Tree,
) -> None:
    (image_tree.folder / "Pipfile").write_text(f'{PIPFILE}alpha = "*"\n')
    code, err = image_tree.image()
    line = rf"{OTHER} \(found [0-9a-f]{{8}}, expected [0-9a-f]{{8}}\); run `invoke lock`, then .+"
    assert (code, bool(re.fullmatch(line, err.splitlines()[-1]))) == (2, True), err
    assert not (image_tree.venv / "stamp").exists()
    code, out, err = image_tree.call("packages")
    assert (code, set(out.split()), err.count(OTHER)) == (0, FIRST | {"gamma==1.0"}, 1)
    assert image_tree.call("packages")[2] == ""
    (image_tree.folder / "Pipfile").write_text(PIPFILE)
    assert image_tree.image()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--dev",), ("--compile",)], ids=str)
def test_an_image_has_the_same_files_each_time_and_no_installer_unless_it_is_for_development(
    image_tree: Tree, words: tuple[str, ...]
) -> None:
    found = []
    for _ in range(2):
        code, err = image_tree.image(*words)
        assert code == 0, err
        found.append(files(image_tree.venv))
        shutil.rmtree(image_tree.venv)
    assert found[0] == found[1]
    names, dev = set(found[0]), "--dev" in words
    assert [name for name in names if name.endswith("uv_cache.json")] == []
    assert names & {"setup.log", "requirements.txt", ".lock"} == set()
    site = "lib/python3.11/site-packages"
    assert (f"{site}/gamma.py" in names, "tools/bin/uv" in names) == (dev, dev)
    assert (f"{site}/__pycache__/alpha.cpython-311.pyc" in names) == ("--compile" in words)


@pytest.mark.slow
def test_an_image_runs_its_tasks_and_a_clone_makes_a_working_environment_of_it(
    image_tree: Tree,
) -> None:
    image_tree.lock("alpha==1.0", dev="gamma==1.0")
    assert image_tree.image()[0] == 0
    mine = {INVOKE, "alpha==1.0", "torch==2.13.0+cpu"}
    assert image_tree.call("packages", LOCKSTEP_PYTHON="/no/python")[2] == ""
    assert image_tree.packages() == mine
    image_tree.lock("alpha==1.1", dev="gamma==1.0")
    assert image_tree.packages() == {INVOKE, "alpha==1.1", "gamma==1.0", "torch==2.13.0+cpu"}


def test_imports_in_the_folder_of_the_environment_go_one_way() -> None:
    files = {path.stem: path for path in (ROOT / "environment").glob("*.py")}
    arrows = {
        name: {one for one in imports(path.read_bytes(), "") if one in files}
        for name, path in files.items()
    }
    order = list(TopologicalSorter(arrows).static_order())
    assert order.index("process") < order.index("installers") < order.index("bootstrap")


def test_what_training_never_reads_is_taken_out_and_nothing_else(tmp_path: Path) -> None:
    gone = [
        "torch/include/c10/x.h",
        "torch/bin/test_api",
        "torch/test/a",
        "nvidia/lib/x.a",
        "numpy/lib/tests/b.py",
    ]
    stay = [
        "torch/bin/torch_shm_manager",
        "torch/testing/c.py",
        "numpy/lib/d.py",
        "tests/e.py",
    ]
    for name in gone + stay:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("four")
    assert image.lighten(tmp_path) == 4 * len(gone)
    assert set(files(tmp_path)) == set(stay)


def lead_to(index: Index, tree: Tree) -> None:
    """Put the test's index in the place of the official address, which no test asks."""
    installers = tree.folder / "environment" / "installers.py"
    official = "https://download.pytorch.org/whl/cpu"
    assert installers.read_text().count(official) == 1
    installers.write_text(installers.read_text().replace(official, f"{index.address}/whl/cpu"))


def lacking(tree: Tree, folder: Path, *patterns: str) -> dict[str, str]:
    """Variables for find-links without some wheels, and for an empty index."""
    links, empty = folder / "links", folder / "empty"
    empty.mkdir()
    shutil.copytree(tree.house, links, ignore=shutil.ignore_patterns("cache", "tools", *patterns))
    return {
        "PIP_FIND_LINKS": str(links),
        "PIP_INDEX_URL": empty.as_uri(),
        "PIP_TRUSTED_HOST": "127.0.0.1",
        "PIP_NO_INDEX": "",
    }


def other_pythons(folder: Path, *more: str) -> str:
    """A PATH with Pythons that are not fit, and some programs."""
    folder.mkdir()
    for name, version in (("python3", "3.9.2"), ("python", "2.7.18")):
        (folder / name).write_text(f"#!/bin/sh\necho {version}\nexit 1\n")
        (folder / name).chmod(0o755)
    for name in ("readlink", *more):
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


NEXT = (
    "install it (Debian, Ubuntu: apt-get install python3-venv, and ./workbench downloads one;"
    " macOS: brew install python@3.11) or set LOCKSTEP_PYTHON to one\n"
)


def test_without_python_3_11_one_line_names_what_was_found(tree: Tree, tmp_path: Path) -> None:
    settings = {"PATH": other_pythons(tmp_path / "bin"), "LOCKSTEP_PYTHON": ""}
    line = "workbench: Python 3.11: not found (%s); " + NEXT
    seen = "python3.11 is missing, python3 is 3.9.2, python is 2.7.18"
    assert tree.call("packages", **settings) == (2, "", line % seen)
    settings["LOCKSTEP_PYTHON"] = str(tmp_path / "bin" / "python3")
    seen = f"{tmp_path / 'bin' / 'python3'} is 3.9.2"
    assert tree.call("packages", **settings) == (2, "", line % seen)
    assert not tree.venv.exists()


def test_a_python_that_is_older_than_a_locked_package_needs_is_refused_before_anything_is_made(
    tree: Tree,
) -> None:
    here = ".".join(map(str, sys.version_info[:3]))
    lock = tree.folder / "Pipfile.lock"
    content = json.loads(lock.read_text())
    content["develop"] = content["default"] | {
        "gamma": {"version": "==1.0", "hashes": [], "markers": "python_full_version >= '3.11.99'"}
    }
    lock.write_text(json.dumps(content))
    seen = f"{sys.executable} is {here}"
    assert tree.call("packages") == (2, "", f"workbench: Python 3.11: not found ({seen}); {NEXT}")
    code, err = tree.image()
    assert (code, err.splitlines()[-1]) == (
        2,
        f"workbench: {sys.executable}: found Python {here}, expected 3.11.99 or a newer 3.11, which"
        " packages of Pipfile.lock need; set LOCKSTEP_PYTHON to one",
    )
    assert not (tree.venv / "bin").exists()


@pytest.mark.slow
def test_where_no_python_fits_the_pinned_uv_installs_one_and_says_so(
    tree: Tree, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(  # another Python, which can make environments
        f'#!/bin/sh\ncase "$*" in *interpreter.py) echo 3.13.5; exit 1; esac\n'
        f'exec {sys._base_executable} "$@"\n'  # type: ignore[attr-defined]
    )
    (tmp_path / "bin" / "python3").chmod(0o755)
    settings = {"LOCKSTEP_PYTHON": "", "PATH": f"{tmp_path / 'bin'}:/none", "PIP_USER": "1"}
    for name in ("readlink", "cmp"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    settings |= {
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"),
        "UV_PYTHON_DOWNLOADS_JSON_URL": str(download_of_this_python(tmp_path)),
    }
    code, out, err = tree.call("packages", **settings)
    assert (code, set(out.split())) == (0, FIRST), err
    seen = "python3.11 is missing, python3 is 3.13.5, python is missing"
    assert err.splitlines()[0] == (
        f"workbench: Python >=3.11.0,<3.12: not found ({seen}); installing one with uv"
    )
    shutil.rmtree(tmp_path / "pythons")
    shutil.rmtree(tree.venv)
    (tmp_path / "cpython.tar.gz").unlink()
    code, out, err = tree.call("packages", **settings)
    _, line = err.splitlines()
    assert (code, out, tree.venv.exists()) == (2, "", False)
    assert line.startswith("workbench: Python 3.11: could not be installed (uv python install ")
    assert "set UV_PYTHON_INSTALL_MIRROR to a mirror" in line


def download_of_this_python(folder: Path) -> Path:
    """The list of downloads that uv reads, of an archive of a Python that is the one here."""
    python = folder / "python"
    library = python / "lib" / "python3.11"
    library.mkdir(parents=True)
    settings = "# system configuration generated and used by the sysconfig module\n"
    settings += "build_time_vars = {}\n"
    (library / "_sysconfigdata__linux_x86_64-linux-gnu.py").write_text(settings)
    (python / "bin").mkdir()
    program = python / "bin" / "python3.11"
    program.write_text(f'#!/bin/sh\nexec {sys._base_executable} "$@"\n')  # type: ignore[attr-defined]
    program.chmod(0o755)
    with tarfile.open(folder / "cpython.tar.gz", "w:gz") as archive:
        archive.add(python, "python")
    machine = platform.machine()
    download = {
        **{"name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux"},
        **{"libc": "gnu", "major": 3, "minor": 11, "patch": 99, "prerelease": "", "variant": None},
        **{"url": (folder / "cpython.tar.gz").as_uri(), "sha256": None, "build": "20261110"},
    }
    listed = folder / "downloads.json"
    listed.write_text(json.dumps({f"cpython-3.11.99-linux-{machine}-gnu": download}))
    return listed


@pytest.mark.slow
def test_the_launcher_works_by_links_in_the_folder_of_who_calls_it(
    whole: Tree, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "first").symlink_to(whole.folder / "workbench")
    (tmp_path / "second").symlink_to("links/first")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "invoke.py").write_text("raise SystemExit('the wrong invoke')\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for words in ((tmp_path / "second",), ("../second",), ("second",), ("sh", "../second")):
        done = subprocess.run(
            [*words, "folder"],
            cwd=tmp_path / "here",
            env=whole.environment(LOCKSTEP_PYTHON="/no/python", PATH=path),
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.stderr) == (f"{tmp_path / 'here'}\n", "")


@pytest.mark.slow
def test_variables_that_are_meant_for_another_python_do_not_show(
    whole: Tree, tmp_path: Path
) -> None:
    (tmp_path / "alpha.py").write_text("raise SystemExit('the wrong alpha')\n")
    strange = dict.fromkeys(("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"), str(tmp_path))
    strange |= {"PYTHONSTARTUP": "/none.py", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error"}
    strange |= {"PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1", "http_proxy": "http://127.0.0.1:9"}
    assert whole.call("prefix", **strange) == (0, f"{whole.venv}\n", "")
    assert whole.call("versions", **strange) == (0, "1.0\n", "")


def test_a_setting_out_of_its_range_is_refused(tree: Tree) -> None:
    line = "workbench: LOCKSTEP_TORCH: found 'cuda', expected cpu or gpu; correct or unset it\n"
    assert tree.call("packages", LOCKSTEP_TORCH="cuda") == (2, "", line)


def test_a_lock_with_the_marks_of_a_merge_is_refused(tree: Tree) -> None:
    lock = tree.folder / "Pipfile.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text())
    line = f"workbench: {lock}: found Expecting value: line 1 column 1 (char 0), expected JSON;"
    line += " after a merge: git checkout Pipfile.lock, then invoke lock\n"
    assert tree.call("packages") == (2, "", line)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root")
def test_a_full_disk_is_told_and_room_repairs_it_in_a_mounted_environment(tree: Tree) -> None:
    with small_disk(tree.venv, "40m"):
        code, _, err = tree.call("packages", LOCKSTEP_INSTALLER="uv")
        last = err.splitlines()[-1]
        assert (code, "the disk is full" in last, "free some space" in last) == (2, True, True), err
        subprocess.run(["mount", "-o", "remount,size=400m", str(tree.venv)], check=True)
        assert tree.packages() == FIRST


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
