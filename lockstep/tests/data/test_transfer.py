"""Push and pull: in parallel, gone on from after a kill, verified; between machines of a team."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lockstep.data.catalog import Entry, SourceFile
from lockstep.data.fetch import fetch
from lockstep.data.store import Store, key
from lockstep.data.transfer import pull, push, verify
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DataError, StorageError
from lockstep.ground.storage import PART, Bucket, Storage, open_storage
from lockstep.ground.watch import Watch
from lockstep.tests.conftest import ROOT
from lockstep.tests.test_storage import bucket, storage  # noqa: F401

watch = Watch()


class Machine:
    """A data folder of a machine; it may have the files of a data set in its store."""

    def __init__(self, data: Path) -> None:
        self.data, self.store = data, Store(data)

    def make(self, *sizes: int) -> Entry:
        files = []
        for number, size in enumerate(sizes):
            path = self.data.with_name("made")
            path.write_bytes(os.urandom(size))
            self.store.put(path, digest := digest_of(path))
            files.append(SourceFile(f"{number}.bin", digest, (), size))
        rows = {"train": 1, "validation": 1, "test": 1}
        return Entry("mine", "", "", "", "idx", (1,), ("a",), rows, tuple(files))

    def push(self, entry: Entry, to: Storage) -> tuple[int, int, int]:
        done = push([entry], self.data, to, watch.say, watch.bar)
        return len(done.sent), len(done.there), len(done.missing)

    def pull(self, entry: Entry, from_: Storage) -> tuple[int, int]:
        done = pull([entry], self.data, from_, watch.say, watch.bar)
        return len(done.sent), len(done.there)

    def good(self, entry: Entry) -> int:
        """How many files of a data set are in the store, read anew."""
        paths = {file.sha256: self.store.path(file.sha256) for file in entry.files}
        return sum(path.exists() and digest_of(path) == sha for sha, path in paths.items())

    def verify(self, entry: Entry) -> tuple[int, int, list[str]]:
        done, altered = verify([entry], self.data, Path("/nowhere"))
        return len(done.there), len(done.missing), altered


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "there")


@pytest.mark.slow
def test_what_one_machine_pushes_another_pulls_once(
    here: Machine, there: Machine, storage: Storage  # noqa: F811
) -> None:
    entry = here.make(*range(1000, 1020), PART + 1)
    assert here.push(entry, storage) == (21, 0, 0)
    assert here.push(entry, storage) == (0, 21, 0)
    assert (there.pull(entry, storage), there.good(entry)) == ((21, 0), 21)
    assert there.pull(entry, storage) == (0, 21)
    assert storage.list() == {key(file.sha256): file.size for file in entry.files}


def test_what_is_not_here_is_named_and_the_rest_is_pushed(
    here: Machine, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    shared, entry = open_storage(str(tmp_path / "shared")), here.make(10, 20)
    here.store.path(entry.files[0].sha256).unlink()
    assert here.push(entry, shared) == (1, 0, 1)
    with pytest.raises(StorageError, match=r"has no 0.bin \(sha256 .*; push it from a machine"):
        there.pull(entry, shared)
    assert there.store.has(entry.files[1].sha256) or there.good(entry) == 0


@pytest.mark.parametrize("where", ["here", "there"])
def test_what_is_altered_is_neither_pushed_nor_kept(
    here: Machine, there: Machine, tmp_path: Path, where: str
) -> None:
    (tmp_path / "shared").mkdir()
    shared, entry = open_storage(str(tmp_path / "shared")), here.make(5000)
    (file,) = entry.files
    if where == "here":
        path = here.store.path(file.sha256)
        path.chmod(0o644)
        path.write_bytes(bytes(5000))
        assert (here.push(entry, shared), shared.list()) == ((0, 0, 1), {})
        return
    here.push(entry, shared)
    path = tmp_path / "shared" / key(file.sha256)
    path.chmod(0o644)
    path.write_bytes(bytes(5000))
    with pytest.raises(StorageError, match=r"0.bin has sha256 .* there, expected .*push it again"):
        there.pull(entry, shared)
    assert [path for path in there.data.rglob("*") if path.is_file()] == []


def test_an_object_of_another_size_is_told_and_stays(here: Machine, tmp_path: Path) -> None:
    shared, entry = open_storage(str(tmp_path / "shared")), here.make(5000)
    path = tmp_path / "shared" / key(entry.files[0].sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut")
    with pytest.raises(StorageError, match=r"with 3 bytes, expected 5000; remove it"):
        here.push(entry, shared)
    assert path.read_bytes() == b"cut"


KILLED = """
import os, signal, sys
from pathlib import Path
from lockstep.data.transfer import {verb}, _Progress
from lockstep.ground.storage import open_storage
from lockstep.data.catalog import Entry, SourceFile
from lockstep.ground.watch import Watch
watch = Watch()
files = tuple(SourceFile(n, s, (), int(z)) for n, s, z in (w.split(":") for w in sys.argv[3:]))
entry = Entry("mine", "", "", "", "idx", (1,), ("a",), {{}}, files)
count = _Progress.__call__
def dying(progress, moved):
    count(progress, moved)
    if progress.moved > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
_Progress.__call__ = dying
{verb}([entry], Path(sys.argv[1]), open_storage(sys.argv[2]), watch.say, watch.bar)
"""


def killed(verb: str, machine: Machine, address: str, entry: Entry, after: int) -> None:
    """The same in a process that kills itself after so many bytes."""
    words = [f"{file.name}:{file.sha256}:{file.size}" for file in entry.files]
    script = KILLED.format(verb=verb, after=after)
    done = subprocess.run([sys.executable, "-c", script, machine.data, address, *words], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_push_and_a_pull_that_were_killed_are_gone_on_from(
    here: Machine, there: Machine, bucket: str  # noqa: F811
) -> None:
    """What had gone over does not go over again: files, parts of a file sent, bytes brought."""
    entry = here.make(*[100_000] * 30, 3 * PART)
    shared = open_storage(bucket)
    assert isinstance(shared, Bucket)
    killed("push", here, bucket, entry, 2_000_000 + PART)
    before, requests = len(shared.list()), Counter[str]()
    for name in ("PutObject", "UploadPart"):
        shared._client.meta.events.register(
            f"before-call.s3.{name}", lambda name=name, **_: requests.update([name])
        )
    sent, there_already, missing = here.push(entry, shared)
    # What was under way when the process died, the server may have finished since.
    assert (sent + there_already, missing, 0 < before <= there_already) == (31, 0, True)
    assert (requests["PutObject"] <= 31 - before, requests["UploadPart"] <= 2) == (True, True)

    killed("pull", there, bucket, entry, 2_000_000 + PART)
    kept = sum(path.stat().st_size for path in (there.data / "store").rglob("*") if path.is_file())
    done = pull([entry], there.data, shared, watch.say, watch.bar)
    assert (there.good(entry), kept > PART) == (31, True)
    assert done.bytes <= 3_000_000 + 3 * PART - kept + 8 * 2**20
    assert not list(there.data.rglob("*.part"))


def test_a_part_that_was_spoilt_is_brought_anew(
    here: Machine, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    shared, entry = open_storage(str(tmp_path / "shared")), here.make(5000)
    here.push(entry, shared)
    final = there.store.path(entry.files[0].sha256)
    final.parent.mkdir(parents=True)
    for spoilt in (b"?" * 3000, b"?" * 9000):
        final.with_name(f".{final.name}.part").write_bytes(spoilt)
        assert (there.pull(entry, shared), there.good(entry)) == ((1, 0), 1)
        final.unlink()


@pytest.mark.slow
def test_training_finds_its_data_in_the_remote_before_the_mirrors(
    here: Machine,
    there: Machine,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry, said = here.make(1000), list[str]()
    here.push(entry, open_storage(bucket))
    monkeypatch.setenv("LOCKSTEP_DATA_REMOTE", bucket)
    found = fetch(entry, there.data, said.append)
    assert found == {"0.bin": there.store.path(entry.files[0].sha256)}
    assert (there.good(entry), said) == (1, [f"fetching 0.bin from {bucket}"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert fetch(entry, there.data, said.append) == found
    other = here.make(10)
    with pytest.raises(
        DataError, match=r"0.bin .* was not found: s3://.* no server answers at this address"
    ):
        fetch(other, there.data, said.append)


def test_verify_finds_a_flipped_byte_that_size_and_time_do_not_show(here: Machine) -> None:
    entry = here.make(5000, 10)
    path = here.store.path(entry.files[0].sha256)
    assert (here.verify(entry), here.store.has(entry.files[0].sha256)) == ((2, 0, []), True)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[4000] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    good, missing, (altered,) = here.verify(entry)
    assert (good, missing) == (1, 1)
    assert altered == (
        f"{path} is altered or truncated (5000 bytes, sha256 {digest_of(path)[:12]}, expected "
        f"{entry.files[0].sha256[:12]})"
    )
