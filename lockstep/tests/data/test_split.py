"""Splits by groups and by time, and folds: who is for test, who validates, and who never both."""

import csv
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.data.add import Request, add
from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry, entry
from lockstep.data.dataset import Dataset
from lockstep.data.fetch import fetch
from lockstep.data.split import Examples, Fold
from lockstep.ground.errors import DataError, SettingError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.keeping import open_data
from lockstep.tests.conftest import experiment

PATIENTS, VISITS = 30, 300


class Clinic:
    """A table of visits: the number of a row, its patient, day and class."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.catalog, self.data = folder, folder / "catalog", folder / "data"
        self.catalog.mkdir()
        self.rows: list[tuple[int, str, str, str]] = [
            (
                n,
                f"p{n * 7 % PATIENTS}",
                f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}",
                "ab"[n // 2 % 2],
            )
            for n in range(VISITS)
        ]

    def add(self, rows: Sequence[tuple[object, ...]] = (), **more: Any) -> Entry:
        path = self.folder / "visits.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("row", "patient", "day", "kind"), *(rows or self.rows)])
        request = Request(path, "visits", label=("kind",), numbers=("row",), **more)
        return add(request, self.data, self.catalog, lambda _: None)[0]

    def open(self, fold: Fold | None = None) -> Dataset:
        return open_dataset(
            entry("visits", self.catalog),
            self.data / "arrays",
            lambda e: fetch(e, self.data, print),
            print,
            fold,
        )

    def rows_of(self, fold: Fold | None = None) -> dict[str, list[int]]:
        splits = self.open(fold).splits
        return {name: split.inputs[:, 0].astype(int).tolist() for name, split in splits.items()}


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def test_rows_of_a_group_are_in_one_split(clinic: Clinic) -> None:
    clinic.add(group="patient")
    rows = clinic.rows_of()
    patients = {name: {clinic.rows[row][1] for row in some} for name, some in rows.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == PATIENTS
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [240, 30, 30]


def test_a_group_stays_where_it_is_when_others_come(clinic: Clinic) -> None:
    clinic.add(group="patient")
    before = {row: name for name, rows in clinic.rows_of().items() for row in rows}
    new = [(VISITS + n, f"q{n // 10}", "2027-01-01", "ab"[n % 2]) for n in range(20)]
    clinic.add([*clinic.rows, *new][::-1], group="patient")
    after = {row: name for name, rows in clinic.rows_of().items() for row in rows}
    moved = {clinic.rows[row][1] for row in before if before[row] != after[row]}
    assert len(moved) <= 2  # those at the borders of the shares


def test_the_latest_rows_are_for_test_and_no_day_is_in_two_splits(clinic: Clinic) -> None:
    rows = [(n, "p", f"2026-11-{1 + n // 15:02d}", "ab"[n % 2]) for n in range(VISITS)]
    clinic.add(rows[::-1], time="day")
    found = clinic.rows_of()
    assert sorted(found["test"]) == list(range(270, 300))
    assert sorted(found["validation"]) == list(range(240, 270))


@pytest.mark.parametrize(
    "days",
    [
        ["2026-01-01T00:30:00+02:00", "2025-12-31T23:00:00", "2026-01-01 00:30"],
        ["9", "10", "1e3"],
        ["-5", "0.5", "3"],
    ],
)
def test_times_are_dates_of_any_zone_or_numbers(clinic: Clinic, days: list[str]) -> None:
    """Each is later than the one before, for people and for the split."""
    rows = [(n, "p", days[n // 100], "ab"[n % 2]) for n in range(VISITS)]
    clinic.add(rows, time="day", validation=0.3, test=0.3)
    assert {name: min(rows) for name, rows in clinic.rows_of().items()} == {
        "train": 0,
        "validation": 100,
        "test": 200,
    }


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ({7: ""}, "time", "visits.csv, line 9: day has nothing, expected a date such as"),
        ({7: "soon"}, "time", "visits.csv, line 9: day has 'soon', expected a date such as"),
        ({7: "nan"}, "time", "visits.csv, line 9: day has 'nan', expected a date such as"),
        (
            {7: "12"},
            "time",
            "visits.csv, line 9: day has a number, expected a date as in the first",
        ),
        (dict.fromkeys(range(VISITS), "2026-01-01"), "time", "has 1 values, which leave none for"),
        ({7: " "}, "group", "visits.csv, line 9: day is empty, expected a value"),
        (dict.fromkeys(range(VISITS), "one"), "group", "has 1 values, which leave none for"),
    ],
)
def test_groups_and_times_that_divide_nothing_are_refused(
    clinic: Clinic, change: dict[int, str], column: str, expected: str
) -> None:
    rows = [(n, p, change.get(n, day), kind) for n, p, day, kind in clinic.rows]
    with pytest.raises(DataError, match=expected):
        clinic.add(rows, **{column: "day"})


def test_a_class_that_would_only_be_tested_is_refused(clinic: Clinic) -> None:
    rows = [(n, "p", n, "new" if n > 280 else "ab"[n % 2]) for n in range(VISITS)]
    with pytest.raises(DataError, match="class new is in no row for training, as day divides"):
        clinic.add(rows, time="day")


@pytest.mark.parametrize("group", [None, "patient"])
def test_each_row_validates_in_one_fold_and_test_stays(clinic: Clinic, group: str | None) -> None:
    clinic.add(group=group)
    whole = clinic.rows_of()
    folds = [clinic.rows_of(Fold(number, 5)) for number in range(1, 6)]
    for rows in folds:
        assert rows["test"] == whole["test"]
        assert sorted(rows["train"] + rows["validation"] + rows["test"]) == list(range(VISITS))
    held_out = [row for rows in folds for row in rows["validation"]]
    assert sorted(held_out + whole["test"]) == list(range(VISITS))
    if group:
        for rows in folds:
            patients = [{clinic.rows[n][1] for n in rows[name]} for name in ("train", "validation")]
            assert patients[0] & patients[1] == set()
    else:  # each class in equal parts
        for rows in folds:
            kinds = [clinic.rows[n][3] for n in rows["validation"]]
            assert abs(kinds.count("a") - kinds.count("b")) <= 1


def test_rows_of_one_content_are_never_learned_from_and_validated_on() -> None:
    ids, contents = ([sha256(str(n).encode()).digest() for n in rows]
                     for rows in (range(VISITS), [n // 2 for n in range(VISITS)]))  # fmt: skip
    examples = Examples(np.zeros((VISITS, 1)), [""] * VISITS, ids, contents, [""] * VISITS)
    for number in (1, 2, 3):
        found = examples.split({"test": 0.1}, fold=Fold(number, 3))
        sides = [{contents[row] for row in found[name]} for name in ("train", "validation")]
        assert sides[0] & sides[1] == set()


def test_folds_of_rows_in_time_are_refused(clinic: Clinic) -> None:
    clinic.add(time="day")
    with pytest.raises(DataError, match=r"split by time .day.: later rows would be learned from"):
        clinic.open(Fold(1, 5))


def test_more_folds_than_groups_are_refused(clinic: Clinic) -> None:
    clinic.add(group="patient")
    with pytest.raises(DataError, match=r"fold .* of 200 has no example for validation"):
        for number in range(1, 201):
            clinic.open(Fold(number, 200))


def test_data_sets_with_a_split_of_their_makers_have_folds_too(place: Place) -> None:
    whole = open_data("digits", place, Watch())
    folds = [open_data("digits", place, Watch(), Fold(number, 3)) for number in (1, 2, 3)]
    rest = len(whole.splits["train"]) + len(whole.splits["validation"])
    assert sum(len(one.splits["validation"]) for one in folds) == rest
    for one in folds:
        assert one.splits["test"].inputs.tobytes() == whole.splits["test"].inputs.tobytes()
        assert one.version == whole.version
        assert np.ptp(np.bincount(one.splits["validation"].target)) <= 5
    assert len({one.digest for one in [whole, *folds]}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.fold=2",), "data.fold: found 2 of no folds; set data.folds, such as 5"),
        (("data.folds=5", "data.fold=6"), r"data.fold: found 6, expected 1 to 5 .data.folds."),
        (("data.folds=1",), "data.folds: found 1, expected 2 or more, or 0 for none"),
    ],
)
def test_folds_that_cannot_be_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        experiment("digits/base", *settings)


def test_a_run_without_folds_has_the_identity_that_it_had() -> None:
    assert {"folds", "fold"} & {*experiment("digits/base").as_dict()["data"]} == set()


def test_a_fold_trains_to_a_run_of_its_own_and_is_validated_by_its_part(
    train_briefly: Callable[..., Run],
) -> None:
    runs = [
        train_briefly("digits/base", "data.limit=300", "data.folds=3", f"data.fold={number}")
        for number in (1, 2)
    ]
    found = [run.finished_receipt()["results"]["metrics"]["validation"] for run in runs]
    assert len({run.name for run in runs}) == 2
    assert found[0] != found[1]
