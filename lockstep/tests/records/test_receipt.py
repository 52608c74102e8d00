"""Receipts that cannot be read: of a newer Lockstep, or of another shape; told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from lockstep import loading
from lockstep.ground import home
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.records.identity import identity
from lockstep.records.reading import misfit
from lockstep.records.receipt import SCHEMA
from lockstep.records.run import Run
from lockstep.tests.conftest import Call, mostly_slow


class Inner(TypedDict):
    rows: list[list[int]]


class Outer(TypedDict):
    name: str
    share: float
    inner: Inner
    sizes: dict[str, int]
    note: str | None
    more: NotRequired[bool]


RIGHT: dict[str, Any] = {
    "name": "a",
    "share": 1,
    "inner": {"rows": [[1, 2], []]},
    "sizes": {"b": 3},
    "note": None,
    "unknown": {},
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"note": "b", "more": True}, ""),
        ({"name": 3}, "name: found 3, expected a text"),
        ({"share": True}, "share: found true, expected a number"),
        ({"share": "1"}, 'share: found "1", expected a number'),
        ({"inner": []}, "inner: found a list, expected an object"),
        ({"inner": {}}, "inner.rows not found"),
        (
            {"inner": {"rows": [[1], [2, 0.5]]}},
            "inner.rows.1.1: found 0.5, expected a whole number",
        ),
        ({"inner": {"rows": [1]}}, "inner.rows.0: found 1, expected a list"),
        ({"sizes": {"b": None}}, "sizes.b: found null, expected a whole number"),
        ({"note": 1.5}, "note: found 1.5, expected a text or null"),
        ({"more": None}, "more: found null, expected true or false"),
    ],
)
def test_json_of_another_shape_is_named_by_its_place(change: dict[str, Any], problem: str) -> None:
    assert misfit(RIGHT | change, Outer) == problem


def test_what_is_no_object_at_all_is_told_too() -> None:
    assert misfit([], Outer) == "found a list, expected an object"


Change = Callable[[Path], object]


def resealed(receipt: dict[str, Any]) -> bytes:
    """The bytes of a receipt, with the digest of what it holds now."""
    content = {name: value for name, value in receipt.items() if name != "digest"}
    return readable_json(content | {"digest": digest_of(canonical_json(content))})


def retold(folder: Path, recipe: str, seed: int, **training: object) -> None:
    """Let a copy of a run be one of another recipe, seed and settings, by all of its files."""
    parts = json.loads((folder / "parts.json").read_bytes())
    parts["experiment"]["seed"] = seed
    parts["experiment"]["training"] |= training
    (folder / "parts.json").write_bytes(readable_json(parts))
    (folder / "identity.json").write_bytes(readable_json(identity(parts)))
    text = (folder / "experiment.yaml").read_text()
    text = text.replace("recipe: base", f"recipe: {recipe}").replace("seed: 42", f"seed: {seed}")
    (folder / "experiment.yaml").write_text(text)
    if (folder / "receipt.json").exists():
        receipt = json.loads((folder / "receipt.json").read_bytes())
        (folder / "receipt.json").write_bytes(resealed(receipt | {"identity": identity(parts)}))


def edited(name: str, **changes: object) -> Change:
    """Changes keys of a JSON file of a run; None takes one out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_bytes()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_bytes(readable_json(kept))

    return change


def written(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


READERS = {
    "evaluate": ("evaluate", "{run}"),
    "predict": ("predict", "{run}", "{picture}"),
    "compare": ("compare", "{run}", "{other}"),
    "diff": ("diff", "{other}", "{run}"),
    "reproduce": ("reproduce", "{run}"),
    "checkout": ("checkout", "{run}", "{new}"),
    "accept": ("accept", "{run}", "--set", "test.accuracy=>= 0.1"),
    "bundle": ("bundle", "{run}"),
    "serve": ("serve", "{run}", "--port", "1"),
}


def told(call: Call, run: Run, other: Run) -> dict[str, str]:
    """The one line with which each verb refuses a run, leaving nothing behind."""
    runs = run.folder.parent
    places = {"run": run.name, "other": other.folder, "new": runs / "new", "picture": __file__}
    before = sorted(runs.rglob("*"))
    found = {}
    for verb, words in READERS.items():
        filled = [word.format(**places) for word in words]
        code, out, found[verb] = call(*filled, "--runs", str(runs))
        assert (code, out, found[verb].count("\n")) == (2, "", 1), (verb, found[verb])
    assert sorted(runs.rglob("*")) == before
    return found


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to be altered."""
    folder = tmp_path / "runs" / finished_run.name
    return Run(shutil.copytree(finished_run.folder, folder, symlinks=True))


@pytest.mark.slow
def test_every_verb_refuses_a_receipt_of_a_newer_lockstep_in_one_line(
    call: Call, copy: Run, finished_run: Run
) -> None:
    edited("receipt.json", schema=SCHEMA + 1, results={"model": "another shape"})(copy.folder)
    line = (
        f"error: {copy.folder}/receipt.json: schema {SCHEMA + 1}, this Lockstep reads up to "
        f"{SCHEMA}; `invoke upgrade`.\n"
    )
    assert told(call, copy, finished_run) == dict.fromkeys(READERS, line)
    _, out, _ = call("runs", "--runs", str(copy.folder.parent), "--json", "--where", "state==newer")
    assert [line["run"] for line in json.loads(out)] == [copy.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    mostly_slow(
        [
            (edited("receipt.json", results=None), "receipt.json: results not found"),
            (
                edited("receipt.json", level=[]),
                "receipt.json: level: found a list, expected an object",
            ),
            (edited("receipt.json", schema="2"), 'schema: found "2", expected a whole number'),
            (written("receipt.json", "[]"), "receipt.json: found a list, expected an object"),
            (edited("parts.json", profile=None), "parts.json: profile not found"),
            (edited("parts.json", schema=7), "parts.json: schema 7, this Lockstep reads up to 3"),
            (edited("identity.json", digest=1), "identity.json: digest: found 1, expected a text"),
            (
                written("experiment.yaml", "- a\n"),
                "experiment.yaml: found a list, expected an object",
            ),
            (lambda folder: (folder / "parts.json").unlink(), "parts.json: is missing"),
            (lambda folder: (folder / "experiment.yaml").unlink(), "experiment.yaml: is missing"),
        ],
        quick=2,
    ),
)
def test_every_verb_refuses_a_run_whose_files_have_another_shape_in_one_line(
    call: Call, copy: Run, finished_run: Run, change: Change, problem: str
) -> None:
    change(copy.folder)
    lines = told(call, copy, finished_run)
    assert {verb: line for verb, line in lines.items() if problem not in line} == {}


def believed(folder: Path) -> None:
    """Let a receipt claim another accuracy, with a digest that does not fit."""
    content = json.loads((folder / "receipt.json").read_bytes())
    content["results"]["metrics"]["test"]["accuracy"] = 0.9999
    (folder / "receipt.json").write_bytes(readable_json(content))


def of_another_identity(folder: Path) -> None:
    """Let a run have the receipt of another one, whole."""
    content = json.loads((folder / "receipt.json").read_bytes())
    content["identity"]["data"] = "0" * 64
    (folder / "receipt.json").write_bytes(resealed(content))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (believed, "receipt.json: its digest is "),
        (of_another_identity, "receipt.json: it is of another identity than identity.json"),
    ],
)
def test_a_receipt_whose_digest_or_identity_does_not_fit_is_believed_by_no_verb(
    call: Call, copy: Run, finished_run: Run, change: Change, problem: str
) -> None:
    change(copy.folder)
    lines = told(call, copy, finished_run)
    assert {verb: line for verb, line in lines.items() if problem not in line} == {}
    where = ("runs", "--runs", str(copy.folder.parent), "--json")
    (line,) = json.loads(call(*where)[1])
    assert (line["state"], line["test"]) == ("altered", None)
    assert json.loads(call(*where, "--where", "test.accuracy>0")[1]) == []
    with pytest.raises(RunError, match=problem):
        loading.load(home.here(), "digits", copy.folder, None, None)


@pytest.mark.parametrize("name", mostly_slow(["weights.safetensors", "preprocess.json"]))
def test_weights_that_are_not_those_of_the_receipt_are_used_by_no_verb(
    call: Call, copy: Run, finished_run: Run, name: str
) -> None:
    content = (copy.folder / name).read_bytes()
    (copy.folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    lines = told(call, copy, finished_run)
    assert {verb: line for verb, line in lines.items() if name not in line} == {}


def test_rows_of_metrics_are_of_their_shape_or_refused(copy: Run) -> None:
    path = copy.folder / "metrics.jsonl"
    rows = path.read_text().splitlines()
    path.write_text(f'{rows[0]}\n{{"epoch": 2}}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl: better not found; it was altered"):
        copy.metrics()
    path.write_text(f"{rows[0]}\nnone\n")
    with pytest.raises(RunError, match=r"metrics.jsonl: line 2: not readable as JSON"):
        copy.metrics()
