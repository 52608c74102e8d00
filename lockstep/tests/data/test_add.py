"""Adding a data set: looked at as a whole, then kept whole; a change is a new version."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lockstep.data.add import Request, add
from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry, entry, versions
from lockstep.data.dataset import Dataset
from lockstep.data.fetch import fetch
from lockstep.data.store import Store
from lockstep.ground.errors import DataError
from lockstep.tests.conftest import ROOT
from lockstep.tests.data.test_arrays import idx

ROWS = [f"{n},Title {n},{'ab'[n % 2]}" for n in range(40)]


class Team:
    """A team's catalog and data folder, and the files that they bring."""

    def __init__(self, folder: Path) -> None:
        self.catalog, self.data, self.files = (
            folder / name for name in ("catalog", "data", "files")
        )
        self.catalog.mkdir()
        self.files.mkdir()

    def table(self, *lines: str, name: str = "mine.csv") -> Path:
        path = self.files / name
        path.write_bytes("\n".join(["id,title,tag", *lines, ""]).encode("utf-8", "surrogateescape"))
        return path

    def pictures(self, count: int = 10, **classes: int) -> Path:
        """Grey squares of a brightness of their own, in PNG and JPEG, in folders and below."""
        folder = self.files / "pictures"
        for number, name in enumerate(classes or {"dark": 0, "light": 1}):
            for n in range(count):
                path = folder / name / ("more" if n % 3 == 0 else "") / f"{n}.{'pjnp'[n % 2::2]}g"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 7), (number * 128 + n, n, 0)).save(path)
        return folder

    def add(self, path: Path, **fields: Any) -> tuple[Entry, bool]:
        request = Request(path, "mine", **fields)
        return add(request, self.data, self.catalog, lambda _: None)

    def text(self, path: Path, **fields: Any) -> tuple[Entry, bool]:
        return self.add(path, label=("tag",), text=("title",), id="id", **fields)

    def refused(self, path: Path, **fields: Any) -> list[str]:
        """The lines by which it is refused; nothing was changed then."""
        before = self.kept()
        with pytest.raises(DataError) as error:
            self.add(path, **fields)
        assert self.kept() == before
        return str(error.value).splitlines()

    def kept(self) -> dict[str, bytes]:
        """All that is in the catalog and the store but remembered digests."""
        folders = (self.catalog, self.data)
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(p): p.read_bytes() for p in found if p.name != "digests.json"}

    def open(self, reference: str = "mine") -> Dataset:
        """Prepared from the store alone."""
        found = entry(reference, self.catalog)
        arrays = self.data / "arrays"
        return open_dataset(found, arrays, lambda e: fetch(e, self.data, print), print)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_a_table_is_added_with_all_that_is_to_be_known(team: Team) -> None:
    path = team.table(*ROWS)
    made, new = team.text(path, licence="CC0", origin="made up", title="Letters")
    path.unlink()
    (known,) = versions("mine", team.catalog)
    assert (known, new) == (made, True)
    assert (made.licence, made.origin, made.title) == ("CC0", "made up", "Letters")
    assert (made.labels, made.counts, made.shape) == (("a", "b"), (20, 20), (8,))
    assert made.rows == {"train": 32, "validation": 4, "test": 4}
    assert made.reading == {
        "text": ["title"], "label": "tag", "id": "id", "shares": {"validation": 0.1, "test": 0.1}
    }  # fmt: skip
    found = team.open()
    assert {name: len(split) for name, split in found.splits.items()} == made.rows
    assert found.version == f"mine@{made.digest}"
    assert not list(team.data.rglob(".*"))


def test_what_is_added_again_changes_nothing(team: Team) -> None:
    path = team.table(*ROWS)
    made, _ = team.text(path)
    before = team.kept()
    again, new = team.text(path, licence="another")
    assert (again, new, team.kept()) == (made, False, before)


def test_a_changed_file_is_a_new_version_beside_the_old_which_stays(team: Team) -> None:
    older, _ = team.text(team.table(*ROWS), licence="CC0")
    file = team.catalog / "mine.yaml"
    file.write_text(file.read_text().replace("title: mine", "# by hand\ntitle: Mine"))
    newer, new = team.text(team.table(*ROWS, "40,New,a"), licence="MIT")
    found = versions("mine", team.catalog)
    assert ([one.digest for one in found], new) == ([newer.digest, older.digest], True)
    assert [(one.licence, one.title) for one in found] == [("MIT", "Mine"), ("CC0", "Mine")]
    assert file.read_text().startswith("# by hand\n")
    counts = [sum(map(len, team.open(one.reference).splits.values())) for one in found]
    assert (counts, len(team.open().splits["train"])) == ([41, 40], 33)


def test_other_columns_of_the_same_file_are_a_version_without_a_second_copy(team: Team) -> None:
    path = team.table(*ROWS)
    team.text(path)
    stored = list((team.data / "store").glob("??/*"))
    _, new = team.add(path, label=("tag",), numbers=("id",))
    assert (new, len(versions("mine", team.catalog))) == (True, 2)
    assert list((team.data / "store").glob("??/*")) == stored


def test_a_store_keeps_what_it_has_when_the_original_is_written_to(team: Team) -> None:
    path = team.table(*ROWS)
    made, _ = team.text(path)
    path.write_text("other")
    assert Store(team.data).has(made.files[0].sha256)


def test_pictures_are_added_by_class_scaled_grey_or_in_colours(team: Team) -> None:
    grey, _ = team.add(team.pictures(), size=(4, 6))
    assert (grey.labels, grey.counts, grey.shape) == (("dark", "light"), (10, 10), (4, 6))
    assert [file.name for file in grey.files] == ["dark.zip", "light.zip"]
    found = team.open().splits
    assert {split: rows.inputs.shape[1:] for split, rows in found.items()} == dict.fromkeys(
        ("train", "validation", "test"), (4, 6)
    )
    assert all(
        (rows.inputs.mean() > 30) == (label == 1)
        for split in found.values()
        for rows, label in ((split.inputs[split.target == n], n) for n in (0, 1))
        for rows in [dataclasses.replace(split, inputs=rows)]
    )
    colours, new = team.add(team.files / "pictures", size=(4, 6), rgb=True)
    assert (new, colours.shape, colours.files) == (True, (4, 6, 3), grey.files)


def test_the_same_pictures_make_the_same_version_wherever_and_whenever(team: Team) -> None:
    made, _ = team.add(team.pictures(), size=(4, 6))
    for path in team.files.rglob("*.png"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (team.files / "pictures" / "dark" / ".DS_Store").write_bytes(b"hidden")
    moved = team.files.rename(team.files.with_name("elsewhere"))
    again, new = team.add(moved / "pictures", size=(4, 6))
    assert (again, new) == (made, False)


@pytest.mark.parametrize("kind", ["npy", "idx"])
def test_arrays_are_added_in_pairs_with_or_without_a_test_split(team: Team, kind: str) -> None:
    inputs = np.random.default_rng(0).integers(0, 256, (60, 4, 5), np.uint8)
    labels = np.arange(60) % 12
    names = ("inputs.npy", "labels.npy") if kind == "npy" else ("a-images-ubyte", "a-labels-ubyte")

    def write(prefix: str, rows: slice) -> None:
        for name, values in zip(names, (inputs, labels), strict=True):
            path = team.files / f"{prefix}{name}"
            if kind == "npy":
                np.save(path, values[rows])
            else:
                path.write_bytes(idx(values[rows]))

    write("", slice(None))
    alone, _ = team.add(team.files)
    assert (alone.shape, alone.labels[9:], alone.counts) == ((4, 5), ("9", "10", "11"), (5,) * 12)
    assert alone.rows == {"train": 36, "validation": 12, "test": 12}
    write("", slice(0, 48))
    write("test-", slice(48, 60))
    pair, _ = team.add(team.files)
    assert pair.rows == {"train": 36, "validation": 12, "test": 12}
    test = team.open().splits["test"]
    assert (test.inputs == inputs[48:]).all() and (test.target == labels[48:]).all()


def test_numbers_of_other_types_become_floats(team: Team) -> None:
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.save(team.files / "inputs.npy", values)
    np.save(team.files / "labels.npy", np.array(["x", "y"] * 10))
    made, _ = team.add(team.files)
    found = team.open().splits["train"].inputs
    assert (found.dtype, made.labels) == (np.dtype(np.float32), ("x", "y"))
    assert {*found.ravel().tolist()} <= {*values.astype(np.float32).ravel().tolist()}


def test_all_that_is_wrong_with_a_table_is_told_at_once_and_nothing_is_half_added(
    team: Team,
) -> None:
    bad = [
        "40,Fine,b",
        "3,Another,b",
        "41,,a",
        "42,caf\udce9,a",
        "43,Alone,c",
        "44,no,label,x",
        "45,  ,",
    ]
    for n in range(47, 60):  # one of them is surely for another split than its like
        bad.append(f"{n},Title 0,a")
    told = team.refused(team.table(*ROWS, *bad), label=("tag",), text=("title",), id="id")
    same = [line for line in told if " is the same as line 2, for " in line]
    assert [line for line in told if line not in same] == [
        f"data mine: {7 + len(same)} problems, and nothing was added; fix the files and try "
        "again.",
        "mine.csv: class c has 1 row, expected 3 or more, one for each split",
        "mine.csv, line 44: title empty, expected text",
        "mine.csv, line 45: title is not in UTF-8; store the file in that encoding",
        "mine.csv, line 47: has 4 fields, expected 3 as in the first line",
        "mine.csv, line 48: tag is empty, expected a value",
        "mine.csv, line 48: title empty, expected text",
        "mine.csv, line 43: has the id of line 5",
    ]
    assert same


def test_what_is_wrong_in_the_columns_that_are_there_is_told_with_those_that_are_not(
    team: Team,
) -> None:
    path = team.table("1,nan,a", "2,5,", "3,caf\udce9,b", "4,1,b")
    told = team.refused(path, label=("tag",), numbers=("title", "body"), id="idd")
    assert told == [
        "data mine: 5 problems, and nothing was added; fix the files and try again.",
        "mine.csv: column body is missing. (it has id, title, tag)",
        "mine.csv: column idd is missing. Did you mean id? (it has id, title, tag)",
        "mine.csv, line 2: title is nan, expected a finite number of 32 bits",
        "mine.csv, line 3: tag is empty, expected a value",
        "mine.csv, line 4: title is not in UTF-8; store the file in that encoding",
    ]


def test_the_same_input_in_two_splits_is_told(team: Team) -> None:
    """Each row twice, under another id: those that fall into one split do no harm."""
    rows = [f"{n + 100},Title {n},{'ab'[n % 2]}" for n in range(40)]
    told = team.refused(team.table(*ROWS, *rows), label=("tag",), text=("title",), id="id")
    assert 2 < len(told) < 22
    for line in told[1:]:
        assert " is the same as line " in line and line.endswith("; remove one of them")


def test_numbers_that_are_none_are_told(team: Team) -> None:
    lines = [f"{n},{n},{'ab'[n % 2]}" for n in range(40)] + ["40,nan,a", "x,4,b"]
    told = team.refused(team.table(*lines), label=("tag",), numbers=("title", "id"))
    assert told[1:] == [
        "mine.csv, line 42: title is nan, expected a finite number of 32 bits",
        "mine.csv, line 43: id has 'x', expected a number",
    ]


def test_one_class_is_not_enough(team: Team) -> None:
    told = team.refused(team.table("1,x,a", "2,y,a", "3,z,a"), label=("tag",), text=("title",))
    assert told[1:] == ["mine.csv: has one class only (a), expected two classes or more"]


def test_unreadable_pictures_are_told_by_their_paths(team: Team) -> None:
    folder = team.pictures()
    (folder / "dark" / "notes.txt").write_text("no picture")
    good = (folder / "light" / "more" / "3.jpg").read_bytes()
    (folder / "light" / "half.jpg").write_bytes(good[: len(good) // 2])
    told = team.refused(folder, size=(4, 6))
    assert [line.partition(" (")[0] for line in told[1:]] == [
        "dark/notes.txt: no readable picture",
        "light/half.jpg: no readable picture",
    ]


def test_arrays_that_do_not_fit_are_told(team: Team) -> None:
    values = np.zeros((20, 3))
    values[:, 0] = range(20)
    values[4, 1], values[7, 2] = np.nan, 1e39
    np.save(team.files / "inputs.npy", values)
    np.save(team.files / "labels.npy", np.arange(20) % 2)
    assert team.refused(team.files)[1:] == [
        "inputs.npy, row 5: has NaN or infinity, expected finite numbers",
        "inputs.npy, row 8: has 1e+39, expected finite numbers of 32 bits",
    ]
    np.save(team.files / "labels.npy", np.arange(19))
    assert "has int64 of shape (19,) for inputs of shape (20, 3)" in team.refused(team.files)[1]
    (team.files / "inputs.npy").write_bytes(b"no array")
    assert team.refused(team.files)[1].startswith("inputs.npy: is not an NPY file")


def test_what_was_asked_wrongly_is_told_in_a_line(team: Team) -> None:
    path = team.table(*ROWS)
    (team.files / "empty").mkdir()
    for told, where, fields in (
        ("a table needs --label COLUMN and either", path, {"text": ("title",)}),
        ("a table needs --label COLUMN and either", path, {"label": ("tag",)}),
        ("needs --size HEIGHTxWIDTH", team.pictures(), {}),
        ("found no data set, expected a table", team.files / "empty", {}),
        ("found nothing, expected a table", team.files / "none.csv", {}),
        ("above 0 that leave some for training", path, {"test": 0.9}),
    ):
        (line,) = team.refused(where, **fields)
        assert told in line


@pytest.mark.slow
def test_an_add_that_is_killed_leaves_nothing_that_the_next_does_not_remove(team: Team) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from lockstep.data import add as adding
def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
setattr(adding, sys.argv[4], killed)
request = adding.Request(Path(sys.argv[1]), "mine", size=(4, 6))
adding.add(request, Path(sys.argv[2]), Path(sys.argv[3]), lambda _: None)
"""
    folder = team.pictures()
    for where in ("_looked_at", "_written"):  # the archives are made; they are in the store
        words = [
            sys.executable,
            "-c",
            script,
            str(folder),
            str(team.data),
            str(team.catalog),
            where,
        ]
        assert subprocess.run(words, cwd=ROOT).returncode == -signal.SIGKILL
        assert list(team.catalog.iterdir()) == []
        assert [path.name for path in (team.data / "store").glob(".adding-*")]
    made, new = team.add(folder, size=(4, 6))
    assert (new, len(versions("mine", team.catalog))) == (True, 1)
    assert not list(team.data.rglob(".*"))
    assert yaml.safe_load((team.catalog / "mine.yaml").read_text())["versions"][0]["version"] == (
        made.digest
    )
