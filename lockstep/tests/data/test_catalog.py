"""The catalog: what data sets there are, each known by digests."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from lockstep.data import decode
from lockstep.data.catalog import SPLITS, entry, names, versions
from lockstep.ground.errors import DataError
from lockstep.ground.home import here

NAMES = names()


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_all_that_is_to_be_known(name: str) -> None:
    found = entry(name)
    if found.kind == "class":
        assert sum(found.counts) == sum(found.rows.values())
        assert len(found.counts) == len(found.labels)
    assert all((found.title, found.licence, found.origin, found.shape, found.files))
    assert found.decoder in decode.DECODERS | decode.READERS
    assert (tuple(found.rows), len(set(found.labels))) == (SPLITS, len(found.labels))
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in found.files)
    assert all(file.addresses and file.size for file in found.files)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(DataError) as error:
        entry("fashionmnist")
    assert str(error.value) == (
        "data.name: 'fashionmnist' is not in the catalog. Did you mean fashion-mnist? "
        f"(it has {', '.join(NAMES)})"
    )


def test_a_catalog_of_ones_own_is_read_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes((here().catalog / "digits.yaml").read_bytes())
    mine = entry("mine", tmp_path)
    assert dataclasses.replace(mine, name="digits") == entry("digits")


def test_only_what_decides_the_arrays_and_their_meaning_is_in_the_digest() -> None:
    digits = entry("digits")
    other_files = (dataclasses.replace(digits.files[0], sha256="0" * 64),)
    elsewhere = (dataclasses.replace(digits.files[0], addresses=("http://elsewhere/",)),)
    same = dataclasses.replace(digits, title="Numerals", licence="none", files=elsewhere)
    others = [
        dataclasses.replace(digits, files=other_files),
        dataclasses.replace(digits, labels=("zero", *digits.labels[1:])),
        dataclasses.replace(digits, rows=digits.rows | {"test": 1}),
        dataclasses.replace(digits, decoder="idx"),
        dataclasses.replace(digits, shape=(64,)),
    ]
    assert same.digest == digits.digest
    assert len({digits.digest, *(other.digest for other in others)}) == 6


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A catalog whose ``mine`` has two versions."""
    known = yaml.safe_load((here().catalog / "digits.yaml").read_text())
    newer = known["versions"][0] | {"rows": {"train": 1, "validation": 1, "test": 1}}
    newer |= {"licence": "another"}
    known["versions"].insert(0, newer)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(known))
    return tmp_path


def test_a_name_means_the_newest_version_and_a_digest_pins_any(two: Path) -> None:
    newer, older = versions("mine", two)
    assert (older.digest, newer.rows["train"]) == (entry("digits").digest, 1)
    assert (newer.licence, older.licence[:5], newer.origin) == ("another", "CC BY", older.origin)
    assert entry("mine", two) == newer == entry(newer.reference, two)
    assert entry(older.reference, two) == older == entry(f"mine@{older.digest}", two)


def test_a_version_that_is_not_there_is_refused_with_those_that_are(two: Path) -> None:
    newer, older = (one.reference for one in versions("mine", two))
    for wrong in ("mine@00000000", f"mine@{older[5:12]}", "mine@", "mine@x"):
        with pytest.raises(DataError) as error:
            entry(wrong, two)
        assert (
            str(error.value)
            == f"data.name: {wrong}: no such version, expected 8 or more hex digits of one of"
            f" {newer}, {older}"
        )


def test_a_version_that_was_edited_by_hand_is_refused(tmp_path: Path) -> None:
    text = (here().catalog / "digits.yaml").read_text()
    version = f"- version: {entry('digits').digest}\n  decoder: digits"
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("- decoder: digits", version))
    assert entry("mine", tmp_path).digest == entry("digits").digest
    path.write_text(path.read_text().replace("test: 360", "test: 361"))
    with pytest.raises(DataError, match="data mine: version 71ea69db was altered"):
        entry("mine", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "versions: [{decoder: idx}]",
        "title: x",
        "title: x\ntitle: y\nversions: []",
    ],
)
def test_a_file_that_is_no_entry_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match=r"mine.yaml: is not an entry of the catalog \(") as error:
        entry("mine", tmp_path)
    assert "\n" not in str(error.value)


def test_the_versions_that_came_with_the_workbench_stay_what_they_are() -> None:
    assert [entry(name).digest[:16] for name in ("digits", "fashion-mnist", "tags")] == [
        "71ea69db4c30e425",
        "a3e8995a199b8134",
        "e6d7fd8513ec36a1",
    ]
