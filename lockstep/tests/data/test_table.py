"""Tables: text and numbers to arrays, split by hash; what is wrong is told with its row."""

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry, SourceFile, entry
from lockstep.data.dataset import Dataset
from lockstep.data.fetch import fetch
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DataError
from lockstep.testing import open_or_skip

TEXT: dict[str, object] = {"text": ["title", "body"], "label": "tag", "id": "id"}
SHARES = {"validation": 0.2, "test": 0.2}
HEAD = "id,title,body,tag"
GOOD = [f"{n},Title {n},Body {n},{'ab'[n % 2]}" for n in range(20)]


def opened(path: Path, reading: Mapping[str, object], width: int, rows: int = 20) -> Dataset:
    """A table as a data set of two classes, freshly prepared."""
    test = 2 * int(rows / 2 * 0.2 + 0.5)
    counts = {"train": rows - 2 * test, "validation": test, "test": test}
    reading = {**reading, "shares": SHARES}
    files = (SourceFile(path.name, digest_of(path)),)
    made = Entry("mine", "", "", "", "table", (width,), ("a", "b"), counts, files, reading)
    arrays = path.parent / "arrays"
    return open_dataset(made, arrays, lambda _: {path.name: path}, lambda _: None)


def written(folder: Path, *lines: str, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def texts(found: Dataset) -> dict[str, str]:
    """Each text of all splits with its label's name."""
    return {
        bytes(row).rstrip(b"\0").decode(): found.labels[label]
        for split in found.splits.values()
        for row, label in zip(split.inputs, split.target, strict=True)
    }


def places(found: Dataset) -> dict[str, str]:
    """Each text with the split that it is in."""
    return {
        bytes(row).rstrip(b"\0").decode(): name
        for name, split in found.splits.items()
        for row in split.inputs
    }


def test_text_becomes_bytes_whose_first_line_is_the_first_column(tmp_path: Path) -> None:
    odd = '20,"Zwei\nZeilen\r\nÄ","says ""x"", twice",a'
    found = opened(written(tmp_path, HEAD, *GOOD, odd), TEXT, 30, 21)
    everything = texts(found)
    assert everything['Zwei Zeilen Ä\nsays "x", twice'] == "a"
    assert (everything["Title 3\nBody 3"], len(everything)) == ("b", 21)
    assert found.splits["train"].inputs.dtype == np.uint8


def test_numbers_become_floats_of_32_bits(tmp_path: Path) -> None:
    lines = [f"{n},{n / 8},{-n}e3,{'ab'[n % 2]}" for n in range(20)]
    path = written(tmp_path, "id,x,y,tag", *lines)
    found = opened(path, {"numbers": ["y", "x"], "label": "tag"}, 2)
    everything = np.concatenate([split.inputs for split in found.splits.values()])
    assert everything.dtype == np.float32
    assert sorted(map(tuple, everything.tolist())) == sorted((-n * 1e3, n / 8) for n in range(20))


def test_parquet_gives_the_same_arrays_as_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    path = written(tmp_path, HEAD, *GOOD)
    parquet.write_table(csv.read_csv(path), tmp_path / "mine.parquet", row_group_size=7)
    assert (
        pyarrow
        and opened(path, TEXT, 16).digest == opened(tmp_path / "mine.parquet", TEXT, 16).digest
    )


def test_where_a_row_stands_does_not_decide_its_split(tmp_path: Path) -> None:
    """With ids and without."""
    for number, reading in enumerate((TEXT, TEXT | {"id": None})):
        before = opened(written(tmp_path, HEAD, *GOOD, name=f"{number}.csv"), reading, 16)
        shuffled = random.Random(0).sample(GOOD, len(GOOD))
        after = opened(written(tmp_path, HEAD, *shuffled, name=f"{number}-2.csv"), reading, 16)
        assert places(before) == places(after)
        assert before.digest != after.digest  # for the order in a split is that of the file


def test_rows_of_a_split_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"{n},{n:02},,{'ab'[n % 2]}" for n in range(20)]
    found = opened(written(tmp_path, HEAD, *lines), TEXT, 3)
    for split in found.splits.values():
        rows = [bytes(row).rstrip(b"\0").decode() for row in split.inputs]
        assert rows == sorted(rows)


def test_a_row_more_moves_at_most_a_row_of_its_class_at_each_border(tmp_path: Path) -> None:
    before = places(opened(written(tmp_path, HEAD, *GOOD), TEXT, 16))
    for n in range(20, 40):
        more = written(tmp_path, HEAD, *GOOD, f"{n},Title {n},Body {n},a", name=f"{n}.csv")
        after = places(opened(more, TEXT, 16, 21))
        moved = [text for text in before if before[text] != after[text]]
        assert len(moved) <= 2


def test_each_class_gives_its_share_and_at_least_one_row_to_each_split(tmp_path: Path) -> None:
    lines = [f"{n},Title {n},,{'a' if n < 17 else 'b'}" for n in range(20)]
    made = Entry(
        "mine", "", "", "", "table", (9,), ("a", "b"),
        {"train": 14, "validation": 3, "test": 3}, (),
        TEXT | {"shares": {"validation": 0.1, "test": 0.1}},
    )  # fmt: skip
    path = written(tmp_path, HEAD, *lines)
    found = open_dataset(made, tmp_path / "arrays", lambda _: {path.name: path}, lambda _: None)
    shares = {name: np.bincount(split.target).tolist() for name, split in found.splits.items()}
    assert shares == {"train": [13, 1], "validation": [2, 1], "test": [2, 1]}


def test_all_that_is_wrong_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    bad = [
        '20,"two\nlines",x,c',
        "21,  ,,a",
        "22,only three,a",
        "23,no label,x,",
        ",no id,x,b",
    ]
    path = written(tmp_path, HEAD, *GOOD, *bad)
    path.write_bytes(path.read_bytes() + b"24,caf\xe9,x,a\n25,zero\0,x,b\n")
    with pytest.raises(DataError) as error:
        opened(path, TEXT, 16)
    assert str(error.value).splitlines() == [
        "data mine: 7 problems, and nothing was added; fix the files and try again.",
        "mine.csv, line 24: title and body empty, expected text",
        "mine.csv, line 25: has 3 fields, expected 4 as in the first line",
        "mine.csv, line 26: tag is empty, expected a value",
        "mine.csv, line 27: id is empty, expected a value",
        "mine.csv, line 28: title is not in UTF-8; store the file in that encoding",
        "mine.csv, line 29: title has a zero byte, expected text",
        "mine.csv, line 22: label 'c' is not in the catalog (a, b)",
    ]
    assert list((tmp_path / "arrays").iterdir()) == []


def test_what_is_no_finite_number_is_told_with_its_line(tmp_path: Path) -> None:
    values = ["nan", "inf", "-1e39", "", "four", "1_0"]
    lines = [f"{value},{'ab'[n % 2]}" for n, value in enumerate(values)]
    with pytest.raises(DataError) as error:
        opened(written(tmp_path, "x,tag", *lines), {"numbers": ["x"], "label": "tag"}, 1)
    assert [line.split(": ", 1)[1] for line in str(error.value).splitlines()[1:]] == [
        "x is nan, expected a finite number of 32 bits",
        "x is inf, expected a finite number of 32 bits",
        "x is -1e+39, expected a finite number of 32 bits",
        "x has nothing, expected a number",
        "x has 'four', expected a number",
        "x has '1_0', expected a number",
    ]


def test_missing_columns_are_told_with_the_nearest_and_the_rest_is_counted(tmp_path: Path) -> None:
    lines = [f"{n},Title" for n in range(30)]
    with pytest.raises(DataError) as error:
        opened(written(tmp_path, "id,titel,body,tag", *lines), TEXT, 16)
    told = str(error.value).splitlines()
    assert (len(told), told[-1]) == (22, "and 11 more in mine.csv")
    assert told[1] == (
        "mine.csv: column title is missing. Did you mean titel? (it has id, titel, body, tag)"
    )


def test_a_file_that_is_no_table_is_told_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("mine.csv", "mine.parquet"):
        path = written(tmp_path, 'id,"tit', name=name)
        with pytest.raises(DataError, match=rf"{name}.*: (is no|column)") as error:
            opened(path, TEXT, 16)
        assert "Traceback" not in str(error.value)


def test_the_projects_of_made_with_ml_are_the_same_ones_everywhere(tmp_path: Path) -> None:
    open_or_skip("tags")
    known = entry("tags")
    found = open_dataset(known, tmp_path / "arrays", lambda wanted: fetch(wanted, tmp_path))
    assert found.digest == "b2396220c7db106b510e50731efe3f1168a31c0bb17f3cc5cc595b89e4155a3b"
    counts = Counter(texts(found).values())
    assert [counts[label] for label in known.labels] == [285, 63, 310, 106]
    assert {name: len(split) for name, split in found.splits.items()} == known.rows
