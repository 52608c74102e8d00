"""Data as people have it: read right, or refused with the reason and the next move."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lockstep.data.catalog import versions
from lockstep.tests.conftest import ROOT
from lockstep.tests.data.test_add import ROWS, Team

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"
LFS = "is a Git LFS pointer, expected the file itself; run `git lfs pull`"
UTF_16 = "is in UTF-16, expected UTF-8; save it in that encoding"


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def moved(team: Team, *places: str) -> Path:
    """Pictures of two classes in each of several folders."""
    for number, place in enumerate(places):
        for n in range(8):
            for label in ("cat", "dog"):
                path = team.files / "pets" / place / label / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (5, 5), 40 * number + 4 * n + 2 * (label == "dog")).save(path)
    return team.files / "pets"


def test_folders_of_splits_are_the_splits_of_their_makers(team: Team) -> None:
    made, _ = team.add(moved(team, "train", "test", "val"), size=(5, 5))
    found = team.open()
    assert (made.labels, made.counts) == (("cat", "dog"), (24, 24))
    assert made.rows == {"train": 16, "validation": 16, "test": 16}
    shades = {name: split.inputs.max() for name, split in found.splits.items()}
    assert shades == {"train": 30, "test": 70, "validation": 110}
    assert sorted(file.name for file in made.files)[:2] == ["test/cat.zip", "test/dog.zip"]


def test_a_split_that_is_not_there_is_drawn_from_training(team: Team) -> None:
    made, _ = team.add(moved(team, "Train", "Test"), size=(5, 5))
    assert made.rows == {"train": 14, "validation": 2, "test": 16}


def test_splits_beside_classes_are_refused(team: Team) -> None:
    folder = moved(team, "train", "test", "more")
    (line,) = team.refused(folder, size=(5, 5))
    assert line.endswith(
        "pets: found test and train, which are splits, beside more, expected only splits or only "
        "classes; move the others elsewhere."
    )


def test_what_a_folder_of_pictures_would_lose_is_said(team: Team) -> None:
    folder = team.pictures()
    (folder / "empty").mkdir()
    (folder / "dark" / "lost.png").symlink_to(team.files / "nothing.png")
    (folder / "gone").symlink_to(team.files / "nowhere")
    Image.new("L", (5, 5)).save(folder / "beside.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).mkdir()
    Image.new("L", (5, 5)).save(os.fsencode(folder) + b"/caf\xe9/\xe9.png")
    assert team.refused(folder, size=(4, 6))[1:] == [
        "beside.png: lies beside the folders, expected inside one of them",
        "gone: is a link to a file that does not exist; put the file there or remove the link",
        "caf\\xe9: its name is not in UTF-8; rename it",
        "caf\\xe9/\\xe9.png: its name is not in UTF-8; rename it",
        "dark/lost.png: is a link to a file that does not exist; put the file there or remove the "
        "link",
        "empty: has no pictures, expected some; or remove the folder",
    ]


@pytest.mark.parametrize(
    "names", [("labels.npy", "labels_noisy.npy"), ("inputs.npy", "inputs2.npy")]
)
def test_two_files_for_one_thing_are_refused(team: Team, names: tuple[str, str]) -> None:
    for name in {*names, "inputs.npy", "labels.npy"}:
        np.save(team.files / name, np.arange(20).reshape(20, *[1] * ("inputs" in name)) % 10)
    (line,) = team.refused(team.files)
    assert f"found {names[0]} and {names[1]}, expected one file of " in line


def test_labels_that_print_alike_are_refused(team: Team) -> None:
    labels = ["cat", "cat ", "Cat", "caf\u00e9", "cafe\u0301", "x\u200b", "x"]
    rows = [f"{n},Title {n},{labels[n % 7]}" for n in range(70)]
    assert team.refused(team.table(*rows), label=("tag",), text=("title",))[1:] == [
        r"mine.csv: labels 'cafe\u0301' and 'caf\xe9' differ only in how letters are encoded "
        "(NFC, NFD); make them one",
        "mine.csv: labels 'cat' and 'cat ' differ only in spaces or characters that cannot be "
        "seen; make them one",
        r"mine.csv: labels 'x' and 'x\u200b' differ only in spaces or characters that cannot be "
        "seen; make them one",
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (b"a", "tag has bytes, expected text or a whole number; save the column as text"),
        (["a", "x"], "tag has list, expected text or a whole number"),
        (float("nan"), "tag is empty, expected a value"),
        (None, "tag is empty, expected a value"),
    ],
)
def test_labels_of_parquet_that_are_no_labels_are_refused(
    team: Team, cell: Any, expected: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    known: dict[type, list[Any]] = {float: [1.0, 2.0], list: [["a"], ["b"]], bytes: [b"a", b"b"]}
    good = known.get(type(cell), ["a", "b"])
    table = {"title": [f"Title {n}" for n in range(30)], "tag": [*good * 14, good[0], cell]}
    parquet.write_table(pyarrow.table(table), team.files / "mine.parquet")
    lines = team.refused(team.files / "mine.parquet", label=("tag",), text=("title",))
    assert any(line.endswith(expected) for line in lines)
    assert len(lines) <= 22


def test_bytes_in_a_column_of_text_are_refused_with_the_right_advice(team: Team) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"title": [b"Title %d" % n for n in range(30)], "tag": ["a", "b"] * 15}
    parquet.write_table(pyarrow.table(table), team.files / "mine.parquet")
    lines = team.refused(team.files / "mine.parquet", label=("tag",), text=("title",))
    assert "mine.parquet, row 1: found bytes in a column of text; save it as text in UTF-8" in lines


def test_numbers_that_become_one_float_are_refused(team: Team) -> None:
    rows = [f"{1700000000 + n},{n},{'ab'[n % 2]}" for n in range(40)]
    path = team.table(*rows)
    assert team.refused(path, label=("tag",), numbers=("id", "title"))[1:] == [
        "mine.csv: column id has 1700000000 (line 2) and 1700000001 (line 3), which are the same "
        "32-bit float; subtract an offset, or leave the column out if it is an id"
    ]
    values = np.stack([np.arange(40) + 1.7e9, np.arange(40)], 1)
    np.save(team.files / "inputs.npy", values)
    np.save(team.files / "labels.npy", np.arange(40) % 2)
    assert team.refused(team.files)[1:] == [
        "inputs.npy: column 1 has 1700000000 (row 1) and 1700000001 (row 2), which are the same "
        "32-bit float; subtract an offset, or leave the column out if it is an id"
    ]


def test_numbers_that_differ_in_the_last_bits_alone_are_no_duplicates(team: Team) -> None:
    """Of 30,000 random numbers some are the same float of 32 bits; no two are the same row."""
    random = np.random.default_rng(0).random(30_000)
    rows = [f"{n},{value!r},{'ab'[n % 2]}" for n, value in enumerate(random.tolist())]
    made, _ = team.add(team.table(*rows), label=("tag",), numbers=("title",))
    assert len({*random.tolist()}) > len({*random.astype(np.float32).tolist()})
    assert sum(made.rows.values()) == 30_000


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1e-60", "title is 1e-60, expected a finite number of 32 bits"),
        ("1e60", "title is 1e+60, expected a finite number of 32 bits"),
        (
            "9007199254740993",
            "title is 9007199254740993, a whole number of more digits than a float has; leave it "
            "out if it is an id, or round it",
        ),
    ],
)
def test_a_number_that_no_float_holds_is_refused(team: Team, cell: str, expected: str) -> None:
    rows = [f"{n},{n},{'ab'[n % 2]}" for n in range(40)]
    path = team.table(*rows, f"40,{cell},a")
    assert team.refused(path, label=("tag",), numbers=("title",))[1] == (
        f"mine.csv, line 42: {expected}"
    )


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (POINTER, "mine.csv", LFS),
        (POINTER, "mine.parquet", LFS),
        (b"", "mine.csv", "is empty, expected data"),
        ("id,title,tag\n".encode("utf-16"), "mine.csv", UTF_16),
        ("id,title,tag\n".encode("utf-16-le"), "mine.CSV", UTF_16),
        (
            b"PK\x03\x04more",
            "mine.csv",
            "is a zip archive or Excel file, expected text in UTF-8; unpack it or save it as CSV",
        ),
        (
            b"id;title;tag\n1;2;3\n",
            "mine.csv",
            "its columns are separated by semicolons, expected commas, or tabs in a .tsv file",
        ),
    ],
)
def test_a_file_that_is_another_than_its_name_says_is_refused_in_a_line(
    team: Team, content: bytes, name: str, expected: str
) -> None:
    (team.files / name).write_bytes(content)
    lines = team.refused(team.files / name, label=("tag",), text=("title",))
    assert f"{name}: {expected}" in lines
    assert len(lines) <= 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (POINTER, LFS),
        (b"PK\x03\x04broken", "is a zip archive, expected an array; save it with numpy.save"),
        (np.zeros((0, 4)), "has no rows (its shape is (0, 4)), expected some"),
        (np.float64(3), "has shape (), expected (rows, ...)"),
        (np.array([{}, {}]), "holds Python objects, expected numbers or texts"),
    ],
)
def test_a_broken_array_is_refused_in_a_line(team: Team, content: Any, expected: str) -> None:
    if isinstance(content, bytes):
        (team.files / "inputs.npy").write_bytes(content)
    else:
        np.save(team.files / "inputs.npy", content)
    np.save(team.files / "labels.npy", np.arange(20) % 2)
    lines = team.refused(team.files)
    assert f"inputs.npy: {expected}" in lines
    assert "allow_pickle" not in "".join(lines)


def test_a_pointer_among_pictures_is_refused(team: Team) -> None:
    folder = team.pictures()
    (folder / "dark" / "1.png").write_bytes(POINTER)
    assert team.refused(folder, size=(4, 6))[1:] == [
        "dark/1.png: is a Git LFS pointer, expected a picture; run `git lfs pull`"
    ]


def test_a_table_is_known_by_its_suffix_in_capitals(team: Team) -> None:
    made, _ = team.text(team.table(*ROWS, name="MINE.CSV"))
    assert (made.decoder, made.labels) == ("table", ("a", "b"))


@pytest.mark.slow
def test_a_catalog_with_accents_is_read_and_written_in_any_locale(team: Team) -> None:
    labels = ["caf\u00e9", "th\u00e9"]
    rows = [f"{n},Titre {n},{labels[n % 2]}" for n in range(40)]
    path = team.table("id,titre,\u00e9tiquette", *rows)
    path.write_text(path.read_text("utf-8").partition("\n")[2], "utf-8")
    script = """
import sys
from pathlib import Path
from lockstep.data import add as adding, catalog
path, data, folder = map(Path, sys.argv[1:])
request = adding.Request(
    path, "mine", label=("\\xe9tiquette",), text=("titre",), title="\\xc9t\\xe9"
)
entry, new = adding.add(request, data, folder, print)
again, more = adding.add(request, data, folder, print)
assert (again.labels, new, more) == (("caf\\xe9", "th\\xe9"), True, False)
"""
    words = [sys.executable, "-c", script, str(path), str(team.data), str(team.catalog)]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(words, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = versions("mine", team.catalog)
    assert (made.title, made.labels) == ("\u00c9t\u00e9", ("caf\u00e9", "th\u00e9"))
