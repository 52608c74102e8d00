"""A data set at a glance: counts, ranges and lengths, each as counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from lockstep.data.dataset import Dataset, Split
from lockstep.data.overview import examples, form_of, overview, page
from lockstep.program import Kind
from lockstep.tests.conftest import command
from lockstep.tests.data.test_arrays import Source

MARKUP = "<script>alert(1)</script>"


def dataset(inputs: object, target: object, kind: Kind, *names: str, columns: int = 0) -> Dataset:
    """Nine examples: six to train, two for validation and one for test."""
    x, y = np.asarray(inputs), np.asarray(target)
    cuts = {"train": slice(0, 6), "validation": slice(6, 8), "test": slice(8, 9)}
    splits = {name: Split(x[cut], y[cut]) for name, cut in cuts.items()}
    return Dataset("own", names, "0" * 64, splits, "own@0", kind, ("a", "b", "c")[:columns])


PICTURES = np.arange(9 * 4, dtype=np.uint8).reshape(9, 2, 2)
TEXTS = np.array([list(f"{MARKUP[: 3 * n]:\0<30}".encode()) for n in range(1, 10)], np.uint8)
ROWS = np.arange(27, dtype=np.float32).reshape(9, 3)


def test_labels_are_counted_by_split(tmp_path: Path) -> None:
    classes = dataset(PICTURES, [0, 0, 1, 1, 1, 2, 0, 2, 1], "class", "x", "y", MARKUP)
    view = overview(Source(tmp_path).entry, classes)
    assert (view.form, view.shape) == ("picture", (2, 2))
    assert view.rows == {"train": 6, "validation": 2, "test": 1}
    assert view.labels == {
        "x": {"train": 2, "validation": 1, "test": 0},
        "y": {"train": 3, "validation": 0, "test": 1},
        MARKUP: {"train": 1, "validation": 1, "test": 0},
    }
    assert MARKUP not in page(view, examples(classes, view.form))
    (values,) = view.values
    expected = (0, 35, PICTURES.mean(), PICTURES.std())
    assert (values.low, values.high, values.mean, values.deviation) == pytest.approx(expected)


def test_of_several_labels_each_is_counted_and_of_masks_each_pixel(tmp_path: Path) -> None:
    marks = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 1, 2, 0, 2, 1]]
    marks[0] = 1
    several = dataset(PICTURES, marks, "labels", "x", "y", "z")
    assert [sum(counts.values()) for counts in _labels(tmp_path, several)] == [3, 5, 3]
    masks = dataset(PICTURES, PICTURES % 2, "mask", "even", "odd")
    assert [sum(counts.values()) for counts in _labels(tmp_path, masks)] == [18, 18]


def _labels(folder: Path, data: Dataset) -> list[dict[str, int]]:
    return [*overview(Source(folder).entry, data).labels.values()]


def test_a_table_has_a_line_for_each_column_and_target(tmp_path: Path) -> None:
    table = dataset(ROWS, ROWS[:, :1] / 2, "numbers", "price", columns=3)
    view = overview(Source(tmp_path).entry, table)
    lines = [(row.name, row.low, row.high, row.mean) for row in view.values]
    assert lines == [
        ("a", 0, 24, 12), ("b", 1, 25, 13), ("c", 2, 26, 14), ("price", 0, 12, 6)
    ]  # fmt: skip
    assert examples(table, "numbers", 1)[0][0].startswith("price ")


def test_texts_have_lengths_and_are_no_markup(tmp_path: Path) -> None:
    texts = dataset(TEXTS, np.zeros((9, 0), np.uint8), "none")
    view = overview(Source(tmp_path).entry, texts)
    assert (view.form, view.labels) == ("text", {})
    assert view.lengths == {"shortest": 3, "median": 15, "nine of ten": 25, "longest": 25}
    shown = page(view, examples(texts, "text"))
    assert "&lt;script" in shown and "<script" not in shown


def test_bytes_that_are_no_text_and_other_shapes_are_tensors() -> None:
    noise = np.random.default_rng(0).integers(128, 255, (9, 30)).astype(np.uint8)
    for inputs in (noise, ROWS, np.zeros((9, 2, 2, 2, 2), np.uint8)):
        assert form_of(dataset(inputs, [0] * 9, "class", "x")) == "tensor"


@pytest.mark.slow
def test_the_verb_shows_digits_and_writes_a_page(tmp_path: Path) -> None:
    file = tmp_path / "digits.html"
    facts = json.loads(command("data", "show", "digits", "--page", str(file), "--json").stdout)
    assert facts["labels"]["3"] == {"train": 127, "validation": 19, "test": 37}
    assert file.read_text().count("<img") == 24
    lines = command("data", "show", "digits").stdout.splitlines()
    assert lines[1].startswith("each a picture of shape (8, 8); target: class; 1,257 train")
