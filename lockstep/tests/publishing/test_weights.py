"""Weights by version: published once, fetched once, used offline, and built upon."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import lockstep
from lockstep import examples
from lockstep.bundles import manifest, signature
from lockstep.bundles.archive import packed
from lockstep.examples.models.digits import Predictor
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import BundleError, StorageError
from lockstep.ground.storage import Folder, Storage, open_storage
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import Bundle, made
from lockstep.publishing.weights import Entry, fetched, index, publish
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command, plain_environment
from lockstep.tests.services import S3
from lockstep.tests.test_acceptance import state
from lockstep.tests.trees import offline

pytestmark = pytest.mark.slow  # storages on moto's server

NAME = "lockstep.examples.digits"  # of its published weights
PNG = ROOT / "lockstep" / "docs" / "three.png"


@pytest.fixture(params=["folder", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage, named by LOCKSTEP_WEIGHTS, and an empty cache."""
    found = str(tmp_path / "shared")
    Path(found).mkdir()
    if request.param == "bucket":
        s3: S3 = request.getfixturevalue("s3")
        for name, value in s3.variables.items():
            monkeypatch.setenv(name, value)
        found = f"s3://{s3.bucket()}/some/prefix"
    monkeypatch.setenv("LOCKSTEP_WEIGHTS", found)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shared folder, named by LOCKSTEP_WEIGHTS."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("LOCKSTEP_WEIGHTS", str(tmp_path / "shared"))
    return tmp_path / "shared"


def small(version: str, content: bytes = b"weights", key: Path | None = None) -> Bundle:
    """A bundle with nothing in it but a manifest and a file."""
    facts: dict[str, Any] = {"model": "digits", "published_name": "digits", "version": version}
    facts |= {"profile": "portable", "run": "r", "identity": "i", "test": {}}
    files = {"weights.safetensors": content}
    said = manifest.make(files, facts)
    files[manifest.NAME] = said
    if key:
        files[manifest.SIGNATURE] = key.read_bytes()
    return Bundle(facts, digest_of(said), packed(files), bool(key))


def version_of(run: Run) -> str:
    """The version of the published weights of an example."""
    return f"{lockstep.__version__}+{run.name.rpartition('-')[2]}"


def put(bundle: Bundle, storage: Storage) -> tuple[Entry, bool]:
    return publish(bundle, storage, lambda _: None)


def test_what_was_published_is_fetched_once_and_then_used_offline(
    bundle: Bundle, digits: Run, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, new = put(bundle, open_storage(address))
    assert (new, entry.version) == (True, version_of(digits))
    assert put(bundle, open_storage(address)) == (entry, False)
    first = fetched(NAME, None, tmp_path / "data", Watch())
    assert first.read_bytes() == bundle.content
    monkeypatch.setenv("LOCKSTEP_WEIGHTS", str(tmp_path / "gone"))
    assert fetched(NAME, entry.version, tmp_path / "data", Watch()) == first
    with pytest.warns(UserWarning, match=r"gone: no such folder.* kept on this machine"):
        assert fetched(NAME, None, tmp_path / "data", Watch()) == first
    monkeypatch.delenv("LOCKSTEP_WEIGHTS")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetched(NAME, None, tmp_path / "data", Watch()) == first
    with pytest.raises(StorageError, match="not on this machine, and LOCKSTEP_WEIGHTS names no"):
        fetched("acme.apparel", None, tmp_path / "data", Watch())


def test_a_version_with_other_bytes_is_refused_and_stays_as_it_was(address: str) -> None:
    storage = open_storage(address)
    entry, _ = put(small("0.1.0+00000001"), storage)
    with pytest.raises(StorageError, match=r"has digits 0\.1\.0\+00000001 with other files"):
        put(small("0.1.0+00000001", b"others"), storage)
    assert index(storage, "digits") == [entry]


def test_the_same_files_signed_by_another_are_the_same_version(
    folder: Path, tmp_path: Path
) -> None:
    storage = open_storage(str(folder))
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(f"signature by {name}".encode())
    entry, _ = put(small("0.1.0+00000001", key=tmp_path / "one"), storage)
    assert put(small("0.1.0+00000001", key=tmp_path / "other"), storage) == (entry, False)
    assert put(small("0.1.0+00000001"), storage) == (entry, False)


def test_those_who_publish_at_the_same_time_lose_nothing(address: str) -> None:
    storage = open_storage(address)
    bundles = [small(f"0.1.{number}+0000000{number}") for number in range(6)] * 2
    with ThreadPoolExecutor(12) as pool:
        news = [new for _, new in pool.map(lambda one: put(one, open_storage(address)), bundles)]
    versions = [entry.version for entry in index(storage, "digits")]
    assert (versions, sum(news)) == ([f"0.1.{n}+0000000{n}" for n in range(5, -1, -1)], 6)


def test_versions_are_ordered_by_number_then_by_date(folder: Path) -> None:
    storage = open_storage(str(folder))
    order = ["0.9.0+ffffffff", "0.10.0rc1+00000000", "0.10.0+ffffffff", "0.10.0+00000000"]
    for version in (order[2], order[0], order[3], order[1]):
        put(small(version), storage)
    assert [entry.version for entry in index(storage, "digits")] == order[::-1]


@pytest.mark.parametrize("version", ["0.2.0-rc1+12345678", "0.1.0foo+12345678", "0.1.0+s"])
def test_a_version_that_could_not_be_ordered_is_not_published(version: str, folder: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be published .* write \[project\] version"):
        put(small(version), open_storage(str(folder)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "content"),
    [
        ("0.2.0-rc1+12345678", {"version": "0.2.0-rc1+12345678"}),
        ("0.1.0foo+12345678", {"version": "0.1.0foo+12345678"}),
        ("0.2.0+12345678", {}),
        ("0.2.0+12345678", {"version": "0.2.0+12345678", "published": 1}),
        ("0.2.0+12345678", []),
    ],
)
def test_a_broken_entry_does_not_hide_the_other_versions(
    version: str, content: Any, folder: Path, tmp_path: Path
) -> None:
    entry, _ = put(small("0.1.0+00000001"), open_storage(str(folder)))
    (folder / "weights" / "digits" / version).mkdir()
    rows = content if isinstance(content, list) else vars(entry) | content
    (folder / "weights" / "digits" / version / "entry.json").write_text(json.dumps(rows))
    told = rf"digits/{re.escape(version)}/entry\.json: not an entry .* Skipping it"
    with pytest.warns(UserWarning, match=told):
        assert index(open_storage(str(folder)), "digits") == [entry]
    with pytest.warns(UserWarning, match=told):
        path = fetched("digits", None, tmp_path / "data", Watch())
    assert path.read_bytes() == small("0.1.0+00000001").content


def test_what_was_killed_before_its_entry_is_no_version_and_can_be_published_again(
    folder: Path,
) -> None:
    storage = open_storage(str(folder))
    entry, _ = put(small("0.1.0+00000001"), storage)
    (folder / "weights" / "digits" / entry.version / "entry.json").unlink()
    assert index(storage, "digits") == []
    again, new = put(small("0.1.0+00000001"), storage)
    assert (replace(again, published=entry.published), new) == (entry, True)


def test_what_was_altered_in_the_storage_is_refused_and_not_kept(
    folder: Path, tmp_path: Path
) -> None:
    entry, _ = put(small("0.1.0+00000001"), open_storage(str(folder)))
    path = folder / entry.key
    content = path.read_bytes()
    path.write_bytes(content[:-20] + b"x" + content[-19:])
    with pytest.raises(StorageError, match="it was altered there"):
        fetched("digits", entry.version, tmp_path / "data", Watch())
    assert not [*(tmp_path / "data").rglob("model.tar.gz")]
    path.write_bytes(content)
    about = path.parents[1] / "entry.json"
    rows = json.loads(about.read_bytes())
    changes = [{"sha256": "../.."}, {"model": "a/b"}, {"version": "1"}, {"size": "1"}, {"more": 1}]
    for change in changes:
        about.write_text(json.dumps(rows | change))
        with pytest.raises(StorageError, match="not an entry of these weights"):
            fetched("digits", entry.version, tmp_path / "data", Watch())


def test_weights_under_the_name_of_another_version_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    entry, _ = put(small("0.1.0+00000001"), open_storage(str(folder)))
    shutil.move(folder / "weights/digits/0.1.0+00000001", folder / "weights/digits/0.2.0+00000002")
    about = folder / "weights/digits/0.2.0+00000002/entry.json"
    about.write_text(about.read_text().replace(entry.version, "0.2.0+00000002"))
    with pytest.raises(StorageError, match=r"found digits 0\.1\.0\+00000001, expected"):
        fetched("digits", None, tmp_path / "data", Watch())


def test_the_entry_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    first, second = (put(small(f"0.1.0+0000000{n}"), open_storage(str(folder)))[0] for n in (1, 2))
    about = folder / "weights" / "digits"
    shutil.copy(about / first.version / "entry.json", about / second.version / "entry.json")
    told = r"0000002/entry\.json: not an entry .*it is that of digits 0\.1\.0\+00000001\)"
    with pytest.raises(StorageError, match=told):
        fetched("digits", second.version, tmp_path / "data", Watch())
    with pytest.raises(StorageError, match=told):
        put(small(second.version), open_storage(str(folder)))
    assert not [*(tmp_path / "data").rglob("*")]


@pytest.mark.parametrize("name", ["model.tar.gz", "entry.json", "both"])
def test_what_was_altered_since_it_came_is_fetched_anew(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it by a flipped bit, or by a file of another version, or by all of that."""
    bundles = [small("0.1.0+00000001"), small("0.1.0+00000002", b"others")]
    other, entry = (put(one, open_storage(str(folder)))[0] for one in bundles)
    data = tmp_path / "data"
    paths = [fetched("digits", one.version, data, Watch()) for one in (other, entry)]
    for file in ("model.tar.gz", "entry.json") if name == "both" else (name,):
        shutil.copy(paths[0].with_name(file), paths[1].with_name(file))
    if name == "both":  # which agree with each other and with the folder's name, so that only the
        about = paths[1].with_name("entry.json")  # manifest, which is what is signed, does not
        about.write_text(about.read_text().replace(other.version, entry.version))
    monkeypatch.delenv("LOCKSTEP_WEIGHTS")
    with pytest.raises(StorageError, match=r"fetching it again failed: .* LOCKSTEP_WEIGHTS names"):
        fetched("digits", entry.version, data, Watch())
    with pytest.warns(UserWarning, match=r"0\.1\.0\+00000002.* Skipping it"):
        assert fetched("digits", None, data, Watch()) == paths[0]
    monkeypatch.setenv("LOCKSTEP_WEIGHTS", str(folder))
    assert fetched("digits", entry.version, data, Watch()).read_bytes() == bundles[1].content
    shutil.copy(paths[0], paths[1])
    assert fetched("digits", None, data, Watch()).read_bytes() == bundles[1].content


def test_two_who_fetch_the_same_at_the_same_time_fetch_it_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's download does not end before the second waits for it, or has ended."""
    bundle, begun, on = small("0.1.0+00000001"), Event(), Event()
    put(bundle, open_storage(str(folder)))
    get, asked = Folder.get, []

    def slow(self: Folder, key: str, path: Path, moved: Callable[[int], None]) -> None:
        if key.endswith("model.tar.gz"):
            asked.append(key)
            begun.set()
            assert len(asked) > 1 or on.wait(60)
        get(self, key, path, moved)

    class Waits(Watch):
        def say(self, line: str) -> None:
            if "waiting for it to end" in line:
                on.set()

    def second() -> Path:
        assert begun.wait(60)
        try:
            return fetched("digits", None, tmp_path / "data", Waits())
        finally:
            on.set()

    monkeypatch.setattr(Folder, "get", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetched, "digits", None, tmp_path / "data", Watch())
        paths = [pool.submit(second).result(), first.result()]
    assert ([path.read_bytes() for path in paths], len(asked)) == ([bundle.content] * 2, 1)


def test_an_unknown_version_is_told_with_the_nearest(folder: Path, tmp_path: Path) -> None:
    put(small("0.1.0+00000001"), open_storage(str(folder)))
    with pytest.raises(BundleError, match=r"Did you mean 0\.1\.0\+00000001\?"):
        fetched("digits", "0.1.0+00000002", tmp_path / "data", Watch())
    (tmp_path / "data" / "elsewhere").mkdir(parents=True)
    (tmp_path / "data" / "elsewhere" / "model.tar.gz").touch()
    with pytest.raises(StorageError, match="not a version, expected one such as"):
        fetched("digits", "../../elsewhere", tmp_path / "data", Watch())


def test_published_weights_are_loaded_and_their_features_are_frozen(
    bundle: Bundle, digits: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("LOCKSTEP_DATA", str(tmp_path / "data"))
    entry, _ = put(bundle, open_storage(str(folder)))
    wanted = Predictor.load(digits.folder).predict([PNG])
    assert examples.load("digits", pretrained=True).predict([PNG]) == wanted
    assert examples.load("digits", version=entry.version).predict([PNG]) == wanted
    features = examples.load_features("digits", pretrained=True)
    whole = Predictor.load(digits.folder)
    inputs = whole.preprocess(whole.read(PNG)[None])
    assert not features.training
    assert not any(one.requires_grad for one in features.parameters())
    assert torch.equal(features(inputs), whole.model.features(inputs))  # type: ignore[operator]
    for words in ({}, {"pretrained": True, "run": digits.folder}):
        with pytest.raises(TypeError, match="expected one of a run, pretrained=True"):
            examples.load("digits", **words)


def test_only_what_the_key_signed_is_kept_where_a_key_is_configured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, public = signature.make_keys(tmp_path / "keys")
    put(small("0.1.0+00000001"), open_storage(str(folder)))
    monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(public))
    with pytest.raises(BundleError, match="not signed"):
        fetched("digits", None, tmp_path / "data", Watch())
    assert not [*(tmp_path / "data").rglob("model.tar.gz")]


def test_the_verb_publishes_and_tells_where(digits: Run, folder: Path) -> None:
    words = ["publish", str(digits.folder), "--json"]
    done = command(*words, "--to", str(folder), LOCKSTEP_WEIGHTS="")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert ((folder / told["key"]).exists(), told["new"], told["signed"]) == (True, True, False)
    done = command(*words)  # the fixture's variable names the folder
    assert (done.returncode, json.loads(done.stdout)) == (0, told | {"new": False})
    done = command(*words, LOCKSTEP_WEIGHTS="")
    assert (done.returncode, "no storage is named" in done.stderr) == (2, True)


@pytest.mark.slow
def test_what_was_published_unsigned_is_never_called_signed(
    digits: Run, folder: Path, tmp_path: Path
) -> None:
    private, _ = signature.make_keys(tmp_path / "keys")
    words = ["publish", str(digits.folder)]
    done = command(*words)
    assert done.stdout.splitlines()[-1].startswith("unsigned: no key was given"), done.stderr
    done = command(*words, "--key", str(private))
    told = f"{folder}: has {NAME} {version_of(digits)} unsigned, and a version never changes"
    assert (done.returncode, done.stdout, told in done.stderr) == (2, "", True)
    shutil.rmtree(folder / "weights")
    for more, first in (["--key", str(private)], "published"), ([], "was published before"):
        done = command(*words, *more)
        lines = done.stdout.splitlines()
        assert (lines[0].split(" ", 2)[2], lines[-1]) == (first, "signed"), done.stderr


def test_a_run_that_does_not_keep_its_budgets_is_not_published(
    digits: Run, folder: Path, tmp_path: Path
) -> None:
    copy = Run(shutil.copytree(digits.folder, tmp_path / "copy"))
    state(copy, "accept:\n  test.accuracy: '>= 0.99'\n")
    done = command("publish", str(copy.folder))
    told = "error: copy: does not keep its recipe's budgets: test.accuracy 0."
    assert (done.returncode, done.stderr.startswith(told), list(folder.iterdir())) == (2, True, [])


@pytest.mark.slow
def test_the_recipe_of_the_page_learns_digits_on_the_features_of_apparel(
    accepted: Callable[[str], Run], folder: Path, tmp_path: Path
) -> None:
    put(made(accepted("apparel/base")), open_storage(str(folder)))
    page = (ROOT / "lockstep" / "docs" / "bundle.md").read_text()
    (script,) = re.findall(
        r"```python\n(from lockstep.examples import load, .*?)```", page, re.DOTALL
    )
    variables = plain_environment() | {"LOCKSTEP_DATA": str(tmp_path / "data")}
    words = [sys.executable, "-c", script]
    told = []
    for command_line in (words, offline(*words)):
        done = subprocess.run(command_line, cwd=ROOT, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
        variables["LOCKSTEP_WEIGHTS"] = ""
    assert (told[1], float(told[0].split()[-1]) >= 0.9) == (told[0], True)


@pytest.mark.slow
def test_features_of_texts_are_those_of_the_model(
    accepted: Callable[[str], Run], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("LOCKSTEP_DATA", str(tmp_path / "data"))
    run = accepted("tags/base")
    entry, _ = put(made(run), open_storage(str(folder)))
    features = examples.load_features("tags", version=entry.version)
    whole: Any = examples.load("tags", run.folder)
    inputs = whole.preprocess(whole.read("Finds cars, fast")[None])
    found = features(inputs)
    assert torch.equal(whole.model.classifier(found), whole.model(inputs))
    assert (found.shape, found.requires_grad) == ((1, whole.preprocess.config.hidden), False)


def test_a_run_starts_from_published_weights_and_goes_on_without_them(
    folder: Path, finished_run: Run, train_briefly: Callable[..., Run]
) -> None:
    put(made(finished_run), open_storage(str(folder)))
    setting = f"start.weights=digits@{version_of(finished_run)}"
    sha256 = finished_run.finished_receipt()["results"]["weights_sha256"]
    run = train_briefly("digits/base", setting, "training.lr=0")
    assert run.experiment().get("start", {}).get("sha256") == sha256
    assert run.finished_receipt()["results"]["weights_sha256"] == sha256
    shutil.rmtree(folder)
    pinned = (setting, f"start.sha256={sha256}", "training.lr=0.001")
    assert train_briefly("digits/base", *pinned).receipt
