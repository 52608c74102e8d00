"""Data sets whose target is no class: numbers, several labels, masks, nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lockstep.data import catalog
from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry
from lockstep.data.dataset import Dataset
from lockstep.data.difference import difference
from lockstep.data.fetch import fetch
from lockstep.tests.data.test_add import Team

PRICES = ["id,rooms,area,price,tax"]
PRICES += [f"{n},{n % 7},{50 + n / 4},{1000 * n + 0.5},{n * n}" for n in range(40)]
TAGS = ["text,tags,sea,sky"]
TAGS += [
    f"scene {n},{';'.join(['sea'] * (n % 2) + ['sky '] * (n % 3 > 0))},{n % 2},{int(n % 3 > 0)}"
    for n in range(40)
]


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def write(team: Team, lines: list[str], name: str = "mine.csv") -> Path:
    path = team.files / name
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(found: Dataset) -> list[tuple[Any, Any]]:
    """The inputs and targets of all splits, in the order of the inputs."""
    pairs = [
        (one.tolist(), answer.tolist())
        for split in found.splits.values()
        for one, answer in zip(split.inputs, split.target, strict=True)
    ]
    return sorted(pairs, key=lambda pair: str(pair[0]))


def test_columns_of_numbers_are_learned_as_floats_of_32_bits(team: Team) -> None:
    path = write(team, PRICES)
    made, _ = team.add(path, numbers=("rooms", "area"), target=("price", "tax"), id="id")
    found = team.open()
    train = found.splits["train"]
    assert (made.kind, found.kind, found.labels) == ("numbers", "numbers", ("price", "tax"))
    assert (train.target.dtype, train.target.shape) == (np.dtype(np.float32), (32, 2))
    assert made.rows == {"train": 32, "validation": 4, "test": 4}
    expected = [([n % 7, 50 + n / 4], [1000 * n + 0.5, n * n]) for n in range(40)]
    assert rows_of(found) == sorted(expected, key=lambda pair: str([float(v) for v in pair[0]]))
    assert found.columns == ("rooms", "area")


def test_several_labels_come_from_one_column_or_from_columns_of_0_and_1(team: Team) -> None:
    path = write(team, TAGS)
    one, _ = team.add(path, text=("text",), labels_from="tags")
    first = team.open()
    other, new = team.add(path, text=("text",), label=("sea", "sky"))
    second = team.open()
    assert (one.labels, one.counts, new) == (("sea", "sky"), (20, 26), True)
    assert (other.labels, other.counts) == (one.labels, one.counts)
    assert rows_of(first) == rows_of(second)
    assert first.splits["train"].target.dtype == np.uint8
    wanted = {f"scene {n}": [n % 2, int(n % 3 > 0)] for n in range(40)}
    texts = {bytes(text).rstrip(b"\0").decode(): answer for text, answer in rows_of(first)}
    assert texts == wanted


def test_labels_in_a_list_of_parquet_are_several_labels(team: Team) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lists = [["sea"] * (n % 2) + ["sky"] * (n % 3 > 0) for n in range(40)]
    table = pyarrow.table({"text": [f"scene {n}" for n in range(40)], "tags": lists})
    parquet.write_table(table, team.files / "mine.parquet")
    made, _ = team.add(team.files / "mine.parquet", text=("text",), labels_from="tags")
    assert (made.kind, made.labels, made.counts) == ("labels", ("sea", "sky"), (20, 26))


def test_a_table_without_a_target_has_targets_without_values(team: Team) -> None:
    made, _ = team.add(write(team, TAGS), text=("text",), no_target=True)
    found = team.open()
    assert (made.labels, found.kind, found.splits["train"].target.shape) == ((), "none", (32, 0))


def masks(team: Team, count: int = 12) -> Path:
    """Pictures of 8 x 6 pixels with a square, and where it is: 255 in a mask of its name."""
    for n in range(count):
        mask = np.zeros((6, 8), np.uint8)
        mask[n % 3 : n % 3 + 3, n % 5 : n % 5 + 3] = 255
        picture = np.full((6, 8, 3), n, np.uint8)
        picture[mask > 0] = (200, 100, n)
        for folder, values, suffix in (("images", picture, "png"), ("masks", mask, "png")):
            (team.files / "set" / folder / "more").mkdir(parents=True, exist_ok=True)
            name = f"{'more/' * (n % 2)}{n}.{suffix}"
            Image.fromarray(values).save(team.files / "set" / folder / name)
    return team.files / "set"


def test_pictures_with_masks_have_a_class_for_each_pixel(team: Team) -> None:
    folder = masks(team)
    made, _ = team.add(folder, size=(6, 8), rgb=True, classes={0: "ground", 255: "square"})
    found = team.open()
    train = found.splits["train"]
    assert (made.kind, made.labels, made.counts) == ("mask", ("ground", "square"), (12, 12))
    assert made.reading["target"] == {"kind": "mask", "values": [0, 255]}
    assert (train.inputs.shape, train.target.shape) == ((10, 6, 8, 3), (10, 6, 8))
    assert train.target.dtype == np.uint8
    assert ((train.inputs[..., 0] == 200) == (train.target == 1)).all()


def test_masks_are_scaled_without_new_values(team: Team) -> None:
    made, _ = team.add(masks(team), size=(3, 3))
    target = team.open().splits["train"].target
    assert (made.labels, target.shape[1:]) == (("0", "255"), (3, 3))
    assert set(np.unique(target).tolist()) == {0, 1}


def test_what_is_wrong_with_masks_is_said_with_the_file(team: Team) -> None:
    folder = masks(team)
    (folder / "masks" / "0.png").unlink()
    Image.new("L", (9, 9)).save(folder / "masks" / "2.png")
    Image.new("RGB", (8, 6), (1, 2, 3)).save(folder / "masks" / "4.png")
    Image.new("L", (8, 6)).save(folder / "masks" / "99.png")
    lines = team.refused(folder, size=(6, 8), classes={0: "ground", 1: "square"})
    assert lines[1:] == [
        "images/0.png: has no mask, expected masks/0.png",
        "masks/2.png: has 9 x 9 pixels, its picture 6 x 8, expected the same size",
        "masks/4.png: found a mask in mode RGB, expected 8 bits for each pixel",
        "masks/99.png: has no picture, expected one of that name in images",
        "set: has value 255, which --classes does not name (it has 0=ground, 1=square)",
        "set: class square is in no mask; leave it out of --classes",
    ]


@pytest.mark.parametrize(
    ("name", "values", "kind", "labels", "shape"),
    [
        ("targets", np.arange(30) / 8, "numbers", ("target",), (1,)),
        ("targets", np.arange(60).reshape(30, 2), "numbers", ("0", "1"), (2,)),
        ("targets", np.arange(180).reshape(30, 2, 3) / 8, "numbers", (), (2, 3)),
        ("labels", np.arange(60).reshape(30, 2) // 3 % 2, "labels", ("0", "1"), (2,)),
        ("masks", np.arange(180).reshape(30, 6) % 4, "mask", ("0", "1", "2", "3"), (6,)),
        ("labels", np.arange(30) % 2 > 0, "class", ("False", "True"), ()),
    ],
)
def test_the_name_of_an_array_says_what_kind_of_target_it_is(
    team: Team, name: str, values: Any, kind: str, labels: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    np.save(team.files / "inputs.npy", np.arange(120, dtype=np.float32).reshape(30, 4))
    np.save(team.files / f"{name}.npy", values)
    made, _ = team.add(team.files)
    found = team.open()
    assert (made.kind, made.labels, found.splits["train"].target.shape[1:]) == (kind, labels, shape)
    number = [int(one[0] // 4) for one, _ in rows_of(found)]
    expected = [np.asarray(values[n], np.float64).tolist() for n in number]
    answers = [answer if shape != (1,) else answer[0] for _, answer in rows_of(found)]
    assert answers == expected


def test_whole_numbers_stay_whole_and_need_no_target(team: Team) -> None:
    tokens = np.arange(30 * 5).reshape(30, 5) + 2**40
    np.save(team.files / "inputs.npy", tokens)
    (line,) = team.refused(team.files)
    assert line.endswith("expected labels, targets or masks beside it; or say --no-target.")
    made, _ = team.add(team.files, no_target=True)
    found = team.open()
    inputs = np.concatenate([split.inputs for split in found.splits.values()])
    assert (made.kind, inputs.dtype, sorted(inputs.ravel().tolist())) == (
        "none",
        np.dtype(np.int64),
        tokens.ravel().tolist(),
    )


def test_pictures_without_a_target_need_no_classes(team: Team) -> None:
    made, _ = team.add(team.pictures(), size=(4, 6), rgb=True, no_target=True)
    assert (made.kind, made.labels, made.rows["train"]) == ("none", (), 16)
    assert [file.name for file in made.files] == ["pictures.zip"]
    assert team.open().splits["test"].target.shape == (2, 0)


def test_a_text_is_cut_into_windows_of_bytes(team: Team) -> None:
    text = "Ein Satz, noch einer: ä. " * 40
    path = write(team, [text], "mine.txt")
    made, _ = team.add(path, no_target=True, window=16)
    found = team.open()
    size = len(text.encode()) + 1
    assert (made.shape, made.kind, sum(made.rows.values())) == ((16,), "none", -(-size // 16))
    inputs = np.concatenate([split.inputs for split in found.splits.values()])
    assert np.count_nonzero(inputs) == size


def test_versions_of_every_kind_can_be_compared(team: Team) -> None:
    def changes(name: str, a: Entry, b: Entry) -> list[Any]:
        found = difference(
            a.reference, b.reference, team.catalog, lambda e: fetch(e, team.data, print)
        )
        return [found.relabelled, found.counts]

    numbers = {"numbers": ("rooms", "area"), "target": ("price",), "id": "id"}
    old, _ = team.add(write(team, PRICES), **numbers)
    new, _ = team.add(write(team, [*PRICES[:-1], "39,4,59.75,7,1"]), **numbers)
    assert changes("mine", old, new) == [[("mine.csv, line 41", "39000.5", "7")], {}]
    several = {"text": ("text",), "labels_from": "tags"}
    old, _ = team.add(write(team, TAGS), **several)
    new, _ = team.add(write(team, [*TAGS[:-1], "scene 39,sky;sea,0,0"]), **several)
    assert changes("mine", old, new) == [
        [("mine.csv, line 41", "sea", "sea; sky")],
        {"sea": (20, 20), "sky": (26, 27)},
    ]


@pytest.mark.parametrize(
    ("lines", "fields", "expected"),
    [
        (
            [*PRICES, "40,1,2,none,3", "41,1,3,nan,3"],
            {"numbers": ("rooms", "area"), "target": ("price",)},
            [
                "mine.csv, line 42: price has 'none', expected a number",
                "mine.csv, line 43: price is nan, expected a finite number of 32 bits",
            ],
        ),
        (
            ["x,y", *(f"{n},3" for n in range(9))],
            {"numbers": ("x",), "target": ("y",)},
            ["mine.csv: column y is 3 in all rows, expected several values"],
        ),
        (
            [*TAGS, "more,,2,0"],
            {"text": ("text",), "label": ("sea", "sky")},
            ["mine.csv, line 42: sea has '2', expected 0 or 1: whether it has that label"],
        ),
        (
            ["t,a,b", *(f"{n},1,{n % 2}" for n in range(9))],
            {"text": ("t",), "label": ("a", "b")},
            ["mine.csv: label a is on every row, expected some with and some without"],
        ),
        (
            ["t,a", "x,1", "y,2"],
            {"text": ("t",), "no_target": True},
            ["mine.csv: has 2 rows, expected 3 or more, one for each split"],
        ),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(
    team: Team, lines: list[str], fields: dict[str, Any], expected: list[str]
) -> None:
    assert team.refused(write(team, lines), **fields)[1:] == expected


def test_options_that_do_not_fit_are_refused_in_a_line(team: Team) -> None:
    table, text = write(team, PRICES), write(team, ["x"], "mine.txt")
    np.save(team.files / "inputs.npy", np.zeros((9, 2)))
    np.save(team.files / "targets.npy", np.arange(9))
    for where, fields, expected in (
        (table, {"numbers": ("area",), "label": ("tax",), "target": ("price",)}, "needs --label"),
        (table, {"numbers": ("area",), "target": ("area",)}, "column area: found as input and"),
        (text, {}, "a text needs --no-target and --window BYTES"),
    ):
        (line,) = team.refused(where, **fields)
        assert expected in line
    table.unlink()
    text.unlink()
    (line,) = team.refused(team.files, target=("a", "b"))
    assert line == "--target: found 2 names, expected 1, one for each column of targets.npy."


@pytest.mark.parametrize(
    ("name", "kind", "digest"),
    [
        ("prices", "numbers", "223fc19c09faace7292f80828c5f2aecfd7fddc4c7c5af83ce9623ed4ff7b97d"),
        ("scenes", "labels", "e33497695c9bc982eb03b7382c796f23aa9d4c8763446f7b6b460b7de4a0cdc0"),
        ("outlines", "mask", "c124c3234f945f8c2b2db581543a527c062733ae1bdceb2afeab8a0c658e2872"),
        ("characters", "none", "280df5d437f9490fef7f770356e063ef8f197c0ddfeb8dd4a21ceb2fb4df79f9"),
    ],
)
def test_the_examples_of_each_kind_are_the_same_everywhere(
    tmp_path: Path, name: str, kind: str, digest: str
) -> None:
    found = open_dataset(catalog.entry(name), tmp_path, lambda e: fetch(e, tmp_path))
    assert (found.kind, found.digest) == (kind, digest)
