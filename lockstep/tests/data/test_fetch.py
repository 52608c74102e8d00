"""Fetching: any good copy will do, no bad one is used, and nothing half-done stays behind."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lockstep.data.catalog import Entry, SourceFile, entry
from lockstep.data.fetch import fetch
from lockstep.data.store import Store
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DataError

GOOD = bytes(range(256)) * 1000
WRONG = GOOD[:-1] + b"?"
WHOLE = digest_of(GOOD)
WANTED = WHOLE[:12]


class Mirror(BaseHTTPRequestHandler):
    """Answers by the folder that is asked: good, wrong, torn; anything else is not found."""

    def do_GET(self) -> None:
        folder = self.path.split("/")[1]
        self.server.asked.append(folder)  # type: ignore[attr-defined]
        known = {"good": GOOD, "wrong": WRONG, "torn": GOOD[: len(GOOD) // 2]}
        if folder not in known:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(known[folder])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002: the base's own name
        pass


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server of its own; ``asked`` lists the folders that it was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@dataclass
class Fetching:
    """One file's fetching: ``at("wrong", "good")`` asks these mirrors in turn."""

    server: ThreadingHTTPServer
    cache: Path
    said: list[str] = field(default_factory=list)

    def entry(self, *folders: str) -> Entry:
        base = f"http://127.0.0.1:{self.server.server_port}"
        addresses = tuple(f"{base}/{folder}/" for folder in folders)
        file = SourceFile("thing.bin", digest_of(GOOD), addresses)
        return Entry("things", "", "", "", "idx", (1,), ("a",), {}, (file,))

    def at(self, *folders: str) -> Path:
        return fetch(self.entry(*folders), self.cache, self.said.append)["thing.bin"]

    @property
    def asked(self) -> list[str]:
        return self.server.asked  # type: ignore[attr-defined, no-any-return]

    def left(self) -> list[str]:
        """The files in the cache."""
        found = [path.name for path in self.cache.rglob("*") if path.is_file()]
        return [name for name in found if name != "digests.json"]


@pytest.fixture
def fetching(mirrors: ThreadingHTTPServer, tmp_path: Path) -> Fetching:
    return Fetching(mirrors, tmp_path / "cache")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a copy of the file into a folder that LOCKSTEP_DATA_PATH names."""

    def put(content: bytes, inside: str = "thing.bin") -> Path:
        path = tmp_path / "elsewhere" / inside
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        monkeypatch.setenv("LOCKSTEP_DATA_PATH", f"{tmp_path / 'none'}:{tmp_path / 'elsewhere'}")
        return path

    return put


@pytest.mark.parametrize("first", ["missing", "wrong", "torn"])
def test_the_next_mirror_is_asked_when_one_fails(fetching: Fetching, first: str) -> None:
    found = fetching.at(first, "good")
    assert (found.read_bytes(), found.parent) == (GOOD, fetching.cache / "store" / WHOLE[:2])
    assert (fetching.asked, fetching.left()) == ([first, "good"], [WHOLE])


def test_what_is_in_the_cache_is_not_fetched_again(fetching: Fetching) -> None:
    assert (fetching.at("good"), fetching.asked) == (fetching.at("good"), ["good"])


def test_an_altered_file_in_the_cache_is_fetched_again(fetching: Fetching) -> None:
    fetching.at("good").write_bytes(WRONG)
    assert (fetching.at("good").read_bytes(), fetching.left()) == (GOOD, [WHOLE])


@pytest.mark.parametrize("inside", ["thing.bin", "things/thing.bin"])
def test_a_good_copy_on_this_machine_is_used_where_it_lies(
    fetching: Fetching, elsewhere: Callable[..., Path], inside: str
) -> None:
    path = elsewhere(GOOD, inside)
    assert (fetching.at("good"), fetching.asked, fetching.left()) == (path, [], [])


def test_an_altered_copy_on_this_machine_is_told_of_and_passed_over(
    fetching: Fetching, elsewhere: Callable[..., Path]
) -> None:
    path = elsewhere(WRONG)
    assert fetching.at("good") == fetching.cache / "store" / WHOLE[:2] / WHOLE
    assert fetching.said[0] == (
        f"warning: {path} is altered or truncated (256000 bytes, sha256 "
        f"{digest_of(WRONG)[:12]}), expected sha256 {WANTED}; looking further"
    )
    assert path.read_bytes() == WRONG  # it is not ours to fix


def test_when_all_fail_everything_tried_is_named_and_nothing_is_left(
    fetching: Fetching, elsewhere: Callable[..., Path]
) -> None:
    path = elsewhere(WRONG)
    with pytest.raises(DataError) as error:
        fetching.at("missing", "wrong", "torn")
    assert (fetching.asked, fetching.left()) == (["missing", "wrong", "torn"], [])
    told = str(error.value)
    base = f"http://127.0.0.1:{fetching.server.server_port}"
    named = [f"{base}/{folder}/thing.bin: " for folder in ("missing", "wrong", "torn")]
    assert [part for part in (str(path), *named) if part not in told] == []
    assert told.startswith(f"data things: thing.bin (sha256 {WANTED}) was not found: ")
    assert told.endswith("LOCKSTEP_DATA_REMOTE a storage that has it.")
    assert "404" in told
    assert "\n" not in told


def test_what_is_as_it_was_is_not_hashed_again(fetching: Fetching) -> None:
    """It is known by size, time and inode; whoever keeps all three alike deceives only this."""
    path = fetching.at("good")
    assert fetching.at("good") == path
    before = path.stat()
    path.write_bytes(WRONG)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (fetching.at("good"), Store(fetching.cache).has(WHOLE)) == (path, True)
    assert Store(fetching.cache).digests.of(path, again=True) == digest_of(WRONG)
    os.utime(path)
    assert fetching.at("good").read_bytes() == GOOD


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"a": 1}'])
def test_a_spoilt_list_of_digests_is_made_anew(fetching: Fetching, spoilt: str) -> None:
    path = fetching.at("good")
    assert fetching.at("good") == path
    known = fetching.cache / "store" / "digests.json"
    content = known.read_bytes()
    known.write_text(spoilt)
    assert (fetching.at("good"), known.read_bytes()) == (path, content)


def test_a_server_that_is_not_there_is_one_more_that_fails(fetching: Fetching) -> None:
    nobody = SourceFile("thing.bin", digest_of(GOOD), ("http://127.0.0.1:1/",))
    with pytest.raises(DataError, match=r"http://127.0.0.1:1/thing.bin: "):
        fetch(Entry("things", "", "", "", "idx", (1,), ("a",), {}, (nobody,)), fetching.cache)
    assert fetching.left() == []


def test_the_embedded_data_set_is_found_in_its_package(fetching: Fetching) -> None:
    found = fetch(entry("digits"), fetching.cache)
    assert (list(found), fetching.left()) == (["digits.csv.gz"], [])
    assert "sklearn" in found["digits.csv.gz"].parts
