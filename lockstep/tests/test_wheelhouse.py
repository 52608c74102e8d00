"""The archive of all locked wheels: made, verified, and used where there is no network."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from installers import tool_pins
from process import SetUpError

import wheelhouse
from lockstep.records.run import Run
from lockstep.tests.trees import FIRST, LOCK, ROOT, Tree, offline, write_wheel

pytestmark = pytest.mark.slow  # environments are made

# With a repository that cannot be written to, but for .venv.
READ_ONLY = """
mount --bind "$1" "$1" && mount --bind "$1/.venv" "$1/.venv" || exit 99
mount -o remount,bind,ro "$1" || exit 99
touch "$1/written" 2>/dev/null && exit 98
exec "$1/workbench" packages
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two small wheels."""
    return packed(tmp_path / "wheels", tmp_path / "two.tar", ("alpha", "beta"))


def packed(folder: Path, archive: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    for name in names:
        write_wheel(folder, name, "1.0")
    wheelhouse.pack(folder, wheelhouse.sums_of(folder), archive)
    return archive


def test_the_same_wheels_make_the_same_bytes_whenever_and_by_whom(
    archive: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted((tmp_path / "wheels").iterdir(), reverse=True):
        shutil.copyfile(path, other / path.name)
        (other / path.name).chmod(0o700)
        os.utime(other / path.name, (1, 1))
    wheelhouse.pack(other, wheelhouse.sums_of(other), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_sha256sum_verifies_what_tar_unpacks(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert names == ["SHA256SUMS", *sorted(path.name for path in (tmp_path / "wheels").iterdir())]
    checked = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(checked, cwd=tmp_path / "unpacked").returncode == 0


def test_a_flipped_byte_in_a_wheel_is_refused_by_its_name(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.index(b"version = '1.0'", content.index(b"beta.py"))] ^= 1
    archive.write_bytes(content)
    with pytest.raises(SetUpError) as refused:
        wheelhouse.unpack(archive, None, set())
    beta = "beta-1.0-py3-none-any.whl: found another sha256 than in SHA256SUMS; "
    assert str(refused.value).startswith(f"{archive}: {beta}")


def test_no_flip_and_no_cut_gives_other_wheels(archive: Path, tmp_path: Path) -> None:
    whole, refused = archive.read_bytes(), 0
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "wheels").iterdir()}
    wanted_sums = wheelhouse.sums_of(tmp_path / "wheels")
    flips = (bytearray(whole) for _ in range(0, len(whole), 61))
    spoiled = [bytes(whole[:length]) for length in range(0, len(whole) - 1024, 256)]
    for place, flipped in zip(range(0, len(whole), 61), flips, strict=True):
        flipped[place] ^= 1
        spoiled.append(bytes(flipped))
    for content in spoiled:
        archive.write_bytes(content)
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            sums = wheelhouse.unpack(archive, folder, set(wanted_sums.values()))
        except SetUpError as error:
            refused += 1
            assert str(error).startswith(f"{archive}: ")
            continue
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert (sums, found) == (wanted_sums, wanted)  # the flip was in the padding
    assert refused


def make(tree: Tree, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`invoke wheelhouse`, as the task starts it."""
    if not tree.venv.exists():
        bare: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", tree.venv]
        subprocess.run(bare, check=True)
    command = [sys.executable, str(tree.folder / "environment" / "wheelhouse.py"), *words]
    settings = tree.environment(**variables)
    return subprocess.run(command, env=settings, capture_output=True, text=True)


@pytest.fixture
def small(tree: Tree) -> Path:
    """The archive of a small tree's lock, in the tree."""
    made = make(tree)
    assert made.returncode == 0, made.stderr
    (archive,) = (tree.folder / "wheelhouse").iterdir()
    return archive


NOWHERE = {"PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://index.invalid/", "PIP_NO_INDEX": ""}


@pytest.mark.slow
def test_the_archive_is_made_once_with_the_same_bytes_and_verified_after_that(
    tree: Tree, small: Path
) -> None:
    first = small.read_bytes()
    again = make(tree, **NOWHERE)
    wheels = len(FIRST) + len(tool_pins())
    told = f"wheelhouse/{small.name}: exists, and its {wheels} wheels are as SHA256SUMS and the"
    assert (again.returncode, again.stdout) == (0, f"{told} lock say\n"), again.stderr
    small.unlink()
    assert (make(tree).returncode, small.read_bytes()) == (0, first)
    small.write_bytes(first[: len(first) // 2])
    damaged = make(tree)
    assert (damaged.returncode, damaged.stdout) == (2, "")
    assert damaged.stderr.splitlines()[-1].startswith(f"workbench: {small}: ")
    tree.lock("alpha==1.0", "beta==1.0", spoil="alpha")
    refused = make(tree)
    assert refused.returncode == 2
    assert "Pipfile.lock (alpha===1.0); ask who runs" in refused.stderr.splitlines()[-1]
    assert [path.name for path in small.parent.iterdir()] == [small.name]


@pytest.mark.slow
def test_a_tree_with_its_archive_is_set_up_without_a_network_and_writes_into_venv_alone(
    tree: Tree, small: Path
) -> None:
    (tree.venv / "wheelhouse" / "of a killed call").mkdir(parents=True)
    words = offline("sh", "-c", READ_ONLY, "sh", tree.folder)
    settings = tree.environment(**NOWHERE)
    done = subprocess.run(words, env=settings, capture_output=True, text=True)
    assert (done.returncode, set(done.stdout.split())) == (0, FIRST), done.stderr
    assert f"workbench: installing from {small} alone\n" in done.stderr
    assert not (tree.venv / "wheelhouse").exists()


@pytest.mark.slow
@pytest.mark.parametrize("installer", ["uv", "pipenv"])
def test_a_folder_of_wheels_is_installed_from_without_a_network(
    tree: Tree, tmp_path: Path, installer: str
) -> None:
    folder = tmp_path / "some wheels"
    shutil.copytree(tree.house, folder, ignore=shutil.ignore_patterns("cache", "tools"))
    named = {"LOCKSTEP_WHEELHOUSE": str(folder), "LOCKSTEP_INSTALLER": installer}
    words = offline(tree.folder / "workbench", "packages")
    settings = tree.environment(**NOWHERE, **named)
    done = subprocess.run(words, env=settings, capture_output=True, text=True)
    assert (done.returncode, set(done.stdout.split())) == (0, FIRST), done.stderr


@pytest.mark.slow
def test_what_does_not_fit_is_reported_in_one_line_and_changes_nothing(
    tree: Tree, small: Path, tmp_path: Path
) -> None:
    assert tree.packages() == FIRST
    tree.lock("alpha==1.1")  # the archive is of the lock before
    folder, none, text = tmp_path / "folder", tmp_path / "none", tmp_path / "text"
    folder.mkdir()
    for wheel in tree.house.glob("*.whl"):
        os.link(wheel, folder / wheel.name)
    (folder / "alpha-1.1-py3-none-any.whl").unlink()
    (folder / "alpha-1.1-py3-none-any.whl").write_bytes(b"another file")
    text.write_text("no archive\n")
    told = {
        small: f"{small}: no wheel of alpha==1.1 found, expected one for each package of Pipfile"
        ".lock and environment/bootstrap.txt; ",
        folder: f"{folder}: alpha-1.1-py3-none-any.whl: found another sha256 than in"
        " Pipfile.lock; ",
        text: f"{text}: not readable as an archive (",
        none: f"LOCKSTEP_WHEELHOUSE: {none} not found, expected an archive of `invoke"
        " wheelhouse` or a folder of wheels; ",
    }
    before = (tree.venv / "stamp").read_bytes()
    for named, line in told.items():
        code, out, err = tree.call("packages", LOCKSTEP_WHEELHOUSE=str(named))
        last = err.splitlines()[-1]
        assert (code, out, last.startswith(f"workbench: {line}")) == (2, "", True), err
        assert (tree.venv / "stamp").read_bytes() == before
        assert not (tree.venv / "wheelhouse").exists()
    assert tree.packages() == FIRST - {"alpha==1.0", "beta==1.0"} | {"alpha==1.1"}


@pytest.mark.slow
def test_the_real_lock_installs_an_image_without_a_network_that_trains_to_the_same_bits(
    tmp_path: Path, house: Path, finished_run: Run
) -> None:
    tree = Tree(tmp_path / "clone", house)
    tree.alone = False
    for name in ("Pipfile", "Pipfile.lock", "pyproject.toml", "tasks.py"):
        shutil.copy(ROOT / name, tree.folder)
    ours = shutil.ignore_patterns("tests", "docs", "benchmarks", "__pycache__")
    shutil.copytree(ROOT / "lockstep", tree.folder / "lockstep", ignore=ours)
    cached(tree)
    bootstrap = tree.folder / "environment" / "bootstrap.py"
    settings = tree.environment(
        LOCKSTEP_DATA=str(tmp_path / "data"), LOCKSTEP_PROJECT="lockstep.examples"
    )
    made = subprocess.run(
        offline(sys.executable, "-I", bootstrap, "--image"),
        env=settings,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    locked = {name for part in ("default", "cpu") for name in LOCK[part]}
    assert len([*tree.site.glob("*.dist-info")]) == len(locked)
    size = sum(path.stat().st_size for path in tree.site.rglob("*") if path.is_file())
    assert size < 1e9

    brief = ("--set=training.epochs=2", "--set=data.limit=300", "--set=training.checkpoint_every=3")
    words = (tree.folder / "workbench", "train", "--model=digits", "--seed=42", *brief)
    done = subprocess.run(offline(*words), env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (Run(folder) for folder in (tree.folder / "runs").iterdir())
    assert run.name == finished_run.name
    same = [each.finished_receipt()["results"]["weights_sha256"] for each in (run, finished_run)]
    assert same[0] == same[1]
    assert (run.folder / "report.html").exists()


def cached(tree: Tree) -> None:
    """Make the archive of the real lock in a tree, or take it from the last time, verified."""
    kept = Path(tempfile.gettempdir()) / "lockstep-wheelhouse"
    kept.mkdir(exist_ok=True)
    (tree.folder / "wheelhouse").mkdir()
    for archive in kept.glob("*.tar"):
        os.link(archive, tree.folder / "wheelhouse" / archive.name)
    made = make(tree)
    if made.returncode:  # what was kept is damaged, or of other installers
        shutil.rmtree(kept)
        kept.mkdir()
        shutil.rmtree(tree.folder / "wheelhouse")
        made = make(tree)
    assert made.returncode == 0, made.stderr
    for archive in (tree.folder / "wheelhouse").glob("*.tar"):
        if not (kept / archive.name).exists():
            for old in kept.iterdir():  # of other locks
                old.unlink()
            os.link(archive, kept / archive.name)
