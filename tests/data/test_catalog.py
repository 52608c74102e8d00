"""The catalog: what data sets there are, each known by digests."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from project.data import decode
from project.data.catalog import CATALOG, SPLITS, entry
from project.errors import DataError

NAMES = sorted(yaml.safe_load(CATALOG.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_all_that_is_to_be_known(name: str) -> None:
    found = entry(name)
    assert all((found.title, found.licence, found.origin, found.shape, found.files))
    assert found.decoder in decode.DECODERS
    assert (tuple(found.rows), len(set(found.labels))) == (SPLITS, len(found.labels))
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in found.files)
    assert all(file.addresses for file in found.files)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(DataError) as error:
        entry("fashionmnist")
    assert str(error.value) == (
        "data.name: 'fashionmnist' is not in the catalog. Did you mean fashion-mnist? "
        f"(catalog.yaml has {', '.join(NAMES)})"
    )


def test_a_catalog_of_ones_own_is_read_the_same_way(tmp_path: Path) -> None:
    known = yaml.safe_load(CATALOG.read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"mine": known["digits"]}))
    mine = entry("mine", tmp_path / "mine.yaml")
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
