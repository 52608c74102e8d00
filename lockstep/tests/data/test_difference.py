"""What differs between two versions: rows, labels, splits, and how many of each label."""

from pathlib import Path

import pytest

from lockstep.data.catalog import Entry
from lockstep.data.difference import Difference, difference
from lockstep.data.fetch import fetch
from lockstep.ground.errors import DataError
from lockstep.testing import open_or_skip
from lockstep.tests.data.test_add import ROWS, Team


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def between(team: Team, a: str, b: str) -> Difference:
    return difference(a, b, team.catalog, lambda entry: fetch(entry, team.data, print))


def test_rows_of_one_id_are_the_same_row_whatever_else_changed(team: Team) -> None:
    older, _ = team.text(team.table(*ROWS))
    rows = ["40,New,a", *ROWS[:5], "5,Title 5,a", "6,Other,a", *ROWS[8:], "41,New too,a"]
    newer, _ = team.text(team.table(*rows))
    found = between(team, older.reference, "mine")
    assert (found.a, found.b) == (older.reference, newer.reference)
    assert (found.added, found.removed) == (["mine.csv, line 2", "mine.csv, line 42"], [
        "mine.csv, line 9"
    ])  # fmt: skip
    assert found.relabelled == [("mine.csv, line 8", "b", "a")]
    assert found.changed == ["mine.csv, line 9"]
    assert found.counts == {"a": (20, 23), "b": (20, 18)}


def test_without_ids_rows_are_the_same_by_what_they_contain(team: Team) -> None:
    fields = {"label": ("tag",), "text": ("title",)}
    older, _ = team.add(team.table(*ROWS), **fields)
    newer, _ = team.add(team.table(*ROWS[1:20], *reversed(ROWS[20:]), "0,Title 0,b"), **fields)
    found = between(team, older.reference, newer.reference)
    assert (found.added, found.removed, found.changed) == ([], [], [])
    assert found.relabelled == [("mine.csv, line 41", "a", "b")]
    back = between(team, newer.reference, older.reference)
    assert back.relabelled == [("mine.csv, line 2", "b", "a")]


def test_rows_that_change_their_split_are_told(team: Team) -> None:
    older, _ = team.text(team.table(*ROWS))
    newer, _ = team.text(team.table(*ROWS), test=0.2)
    found = between(team, older.reference, newer.reference)
    assert (len(found.moved), found.added, found.relabelled) == (8, [], [])
    assert {(a, b) for _, a, b in found.moved} == {("validation", "test"), ("train", "validation")}


def test_a_file_on_the_disk_is_compared_with_a_version(team: Team) -> None:
    made, _ = team.text(team.table(*ROWS))
    path = str(team.table(*ROWS[1:], name="new.csv"))
    assert between(team, "mine", str(team.table(*ROWS))).same
    assert between(team, made.reference, path).removed == ["mine.csv, line 2"]
    found = between(team, path, "mine")
    assert (found.added, found.a, found.b) == (["mine.csv, line 2"], path, made.reference)
    with pytest.raises(DataError, match=r"new.csv: 1 problem, .*\nnew.csv, line 2: has 1 field"):
        between(team, "mine", str(team.table("x", name="new.csv")))


def test_pictures_are_told_by_their_paths_and_classes(team: Team) -> None:
    folder = team.pictures()
    older, _ = team.add(folder, size=(4, 6))
    (folder / "dark" / "1.jpg").rename(folder / "light" / "was-dark.jpg")
    (folder / "dark" / "2.png").unlink()
    assert between(team, "mine", str(folder)).removed == ["dark/2.png"]
    newer, _ = team.add(folder, size=(4, 6))
    found = between(team, older.reference, newer.reference)
    assert (found.added, found.removed) == ([], ["dark/2.png"])
    assert found.relabelled == [("light/was-dark.jpg", "dark", "light")]
    assert found.counts == {"dark": (10, 8), "light": (10, 11)}


def test_any_two_data_sets_can_be_compared(team: Team) -> None:
    from lockstep.ground.home import here

    def brought(entry: Entry) -> dict[str, Path]:
        return fetch(entry, team.data, print)

    open_or_skip("tags")
    assert difference("digits", "digits", here().catalog, brought).same
    found = difference("digits", "tags", here().catalog, brought)
    assert (len(found.removed), len(found.added)) == (1797, 764)
    assert found.removed[0] == "train, row 1"
    with pytest.raises(DataError, match="found two paths"):
        difference(str(team.files), str(team.data.parent), here().catalog, brought)
