"""Prepared arrays: decoded once, verified, opened in constant time, the same for everyone."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry, entry
from lockstep.data.dataset import Dataset, Split
from lockstep.ground.errors import DataError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.run.keeping import open_data
from lockstep.tests.conftest import ROOT

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx(array: NDArray[Any]) -> bytes:
    """An array as an IDX file, unpacked."""
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


class Source:
    """A small data set of three classes as four IDX files, to be spoiled and opened."""

    def __init__(self, folder: Path, rows: int = 1) -> None:
        self.folder = folder / "arrays"
        self.paths = {name: folder / name for name in NAMES}
        counts = {"train": 60 * rows, "validation": 30 * rows, "test": 30 * rows}
        self.entry = Entry("small", "", "", "", "idx", (4, 5), ("a", "b", "c"), counts, ())
        made = np.random.default_rng(0)
        self.images = made.integers(0, 256, (120 * rows, 4, 5), np.uint8)
        self.labels = np.arange(120 * rows) % 3
        self.write()

    def write(self) -> None:
        """Write the files, two thirds of the rows being for training."""
        cut = self.entry.rows["train"] + self.entry.rows["validation"]
        arrays = (self.images[:cut], self.labels[:cut], self.images[cut:], self.labels[cut:])
        for path, array in zip(self.paths.values(), arrays, strict=True):
            path.write_bytes(gzip.compress(idx(array), 1))

    def open(self) -> Dataset:
        return open_dataset(self.entry, self.folder, lambda _: self.paths, lambda _: None)

    def home(self) -> Path:
        """The folder of the arrays, once they are prepared."""
        (home,) = self.folder.iterdir()
        return home


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_arrays_are_prepared_once_and_then_need_no_source(source: Source) -> None:
    first = source.open()
    for path in source.paths.values():
        path.unlink()
    again = source.open()
    test = again.splits["test"]
    assert (again.digest, again.labels) == (first.digest, ("a", "b", "c"))
    assert {name: len(split) for name, split in again.splits.items()} == source.entry.rows
    assert (test.inputs == source.images[90:]).all()
    assert (test.target == source.labels[90:]).all()
    assert (str(test.inputs.dtype), str(test.target.dtype)) == ("uint8", "int64")


def test_a_part_of_a_split_has_of_each_class_alike_however_the_rows_lie() -> None:
    """As far as there are enough; it is the same part each time, and a larger one contains it."""
    classes = np.repeat([0, 1, 2], [50, 3, 20])
    split = Split(np.arange(73), classes)
    parts = {rows: split.first(rows) for rows in (3, 9, 29, 73, 80, 0)}
    counts = {rows: np.bincount(part.target, minlength=3).tolist() for rows, part in parts.items()}
    assert counts == {
        3: [1, 1, 1],
        9: [3, 3, 3],
        29: [13, 3, 13],
        73: [50, 3, 20],
        80: [50, 3, 20],
        0: [50, 3, 20],
    }
    assert all((np.diff(part.inputs) > 0).all() for part in parts.values())
    assert {*parts[3].inputs} < {*parts[9].inputs} < {*parts[29].inputs}
    assert (split.first(9).inputs == parts[9].inputs).all()


@pytest.mark.parametrize("target", [np.zeros((1000, 0), np.uint8), np.arange(1000) / 7])
def test_a_part_of_a_split_without_classes_is_the_first_of_a_shuffled_order(target: Any) -> None:
    split = Split(np.arange(1000), target)
    rows = split.first(100).inputs
    assert (len({*rows.tolist()}), 400 < rows.mean() < 600) == (100, True)


def test_other_labels_are_another_data_set(source: Source) -> None:
    before = source.open().digest
    source.entry = dataclasses.replace(source.entry, labels=("a", "b", "d"))
    assert source.open().digest != before


def truncated_gzip(source: Source) -> None:
    path = source.paths[NAMES[0]]
    path.write_bytes(path.read_bytes()[:-200])


def no_gzip(source: Source) -> None:
    source.paths[NAMES[1]].write_bytes(b"<html>not found</html>")


def truncated_idx(source: Source) -> None:
    source.paths[NAMES[0]].write_bytes(gzip.compress(idx(source.images[:90])[:-1]))


def no_head(source: Source) -> None:
    source.paths[NAMES[2]].write_bytes(gzip.compress(b"\0\0\x08\3\0\0"))


def wrong_magic(source: Source) -> None:
    source.paths[NAMES[3]].write_bytes(gzip.compress(b"\0\0\x0d" + idx(source.labels)[3:]))


def label_out_of_range(source: Source) -> None:
    source.labels[-1] = 3
    source.write()


def label_missing(source: Source) -> None:
    source.paths[NAMES[1]].write_bytes(gzip.compress(idx(source.labels[:89])))


def pictures_for_labels(source: Source) -> None:
    source.paths[NAMES[1]].write_bytes(source.paths[NAMES[0]].read_bytes())


def nothing_to_train_on(source: Source) -> None:
    source.paths[NAMES[0]].write_bytes(gzip.compress(idx(source.images[:0])))
    source.paths[NAMES[1]].write_bytes(gzip.compress(idx(source.labels[:0])))


def nothing_to_test_on(source: Source) -> None:
    source.paths[NAMES[2]].write_bytes(gzip.compress(idx(source.images[:0])))
    source.paths[NAMES[3]].write_bytes(gzip.compress(idx(source.labels[:0])))


def other_shape(source: Source) -> None:
    source.images = source.images.transpose(0, 2, 1)
    source.write()


def other_rows(source: Source) -> None:
    source.paths[NAMES[2]].write_bytes(gzip.compress(idx(source.images[:29])))
    source.paths[NAMES[3]].write_bytes(gzip.compress(idx(source.labels[:29])))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (truncated_gzip, f"{NAMES[0]}: is truncated or not a gzip file"),
        (no_gzip, f"{NAMES[1]}: is truncated or not a gzip file"),
        (
            truncated_idx,
            f"{NAMES[0]}: has 1799 values, expected the shape of its header, [90, 4, 5].",
        ),
        (no_head, f"{NAMES[2]}: starts with 00000803, which is not an IDX file of bytes."),
        (wrong_magic, f"{NAMES[3]}: starts with 00000d01, which is not an IDX file of bytes."),
        (label_out_of_range, "data small: row 29 of test has label 3, expected 0 to 2"),
        (label_missing, "data small: train has labels of shape (89,) for inputs of shape (90,"),
        (pictures_for_labels, "data small: train has labels of shape (90, 4, 5) for inputs of"),
        (nothing_to_train_on, "data small: the train split is empty"),
        (nothing_to_test_on, "data small: the test split is empty"),
        (other_shape, "inputs of shape (60, 5, 4), the catalog says (60, 4, 5)"),
        (other_rows, "data small: test has inputs of shape (29, 4, 5), the catalog says (30, 4,"),
    ],
)
def test_files_that_do_not_hold_what_the_catalog_says_leave_nothing_half_made(
    source: Source, spoil: Callable[[Source], None], told: str
) -> None:
    spoil(source)
    with pytest.raises(DataError) as error:
        source.open()
    assert told in str(error.value)
    assert ("\n" in str(error.value), list(source.folder.iterdir())) == (False, [])


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_spoilt_table_of_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits.csv.gz"
    for text in (b"1,2,3", b"1,2\n3", b"-1" + b",0" * 64, b"x", b""):
        path.write_bytes(gzip.compress(text))
        with pytest.raises(DataError, match=r"not a table of 65 numbers|the train split is empty"):
            open_dataset(entry("digits"), tmp_path / "arrays", lambda _: {path.name: path})
    assert list((tmp_path / "arrays").iterdir()) == []


def test_an_altered_array_is_refused_by_name(source: Source) -> None:
    source.open()
    path = source.home() / "test-inputs.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError) as error:
        source.open()
    assert str(error.value).startswith(f"data small: {path} is altered (sha256 ")
    assert str(error.value).endswith(f"remove the folder {source.home()} and it is prepared again.")


@pytest.mark.parametrize("name", ["train-labels.npy", "manifest.json"])
def test_a_file_that_is_no_longer_whole_is_refused_by_name(source: Source, name: str) -> None:
    source.open()
    path = source.home() / name
    path.unlink()
    if name == "manifest.json":
        path.write_text('{"data": "small", ')
    with pytest.raises(DataError, match=f"data small: {path} is altered"):
        source.open()


def test_an_array_that_was_touched_but_is_the_same_is_accepted(source: Source) -> None:
    before = source.open().digest
    path = source.home() / "train-inputs.npy"
    os.utime(path, (1, 1))
    checked = source.home() / "checked.json"
    known = checked.read_bytes()
    assert (source.open().digest, checked.read_bytes() == known) == (before, False)


def test_where_a_check_cannot_be_noted_it_is_made_again(source: Source) -> None:
    before = source.open().digest
    checked = source.home() / "checked.json"
    checked.unlink()
    checked.mkdir()  # nobody, root included, can write a file of that name
    assert source.open().digest == before
    (source.home() / "test-labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"test-labels.npy is altered"):
        source.open()


@pytest.mark.slow
def test_two_processes_at_once_prepare_it_once(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from lockstep.data import arrays, catalog, fetch
def slowly(entry):
    print("fetching", flush=True)
    assert sys.stdin.readline() == "go on\\n"
    return fetch.fetch(entry, Path("/nowhere"))
say = lambda line: print(line, flush=True)
print(arrays.open_dataset(catalog.entry("digits"), Path(sys.argv[1]), slowly, say).digest)
"""

    def start() -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", script, str(tmp_path)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    with start() as first:
        assert first.stdout and first.stdout.readline() == "fetching\n"
        with start() as second:
            assert second.stdout
            waiting = f"{tmp_path} is held by process {first.pid}; waiting for it to end\n"
            assert second.stdout.readline() == waiting
            out = first.communicate("go on\n")[0], second.communicate()[0]
    one, other = (lines.splitlines()[-1] for lines in out)  # either may wait for the other to hash
    assert (one, len(list(tmp_path.iterdir()))) == (other, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_opening_a_data_set_fifty_times_as_large_reads_and_takes_no_more(tmp_path: Path) -> None:
    script = """
import json, sys
from pathlib import Path
from lockstep.data.arrays import open_dataset
from lockstep.data.catalog import Entry
def now():
    status, io = Path("/proc/self/status").read_text(), Path("/proc/self/io").read_text()
    return [int(text.split(key + ":")[1].split()[0]) for text, key in
            ((status, "RssAnon"), (io, "rchar"))]
entry = Entry(*json.loads(sys.argv[1]))
entry = Entry(**(vars(entry) | {"labels": tuple(entry.labels)}))
before = now()
split = open_dataset(entry, Path(sys.argv[2]), None).splits["train"]
opened = now()
total = sum(int(split.inputs[i : i + 999].sum()) for i in range(0, len(split), 999))
print(json.dumps([opened[1] - before[1], now()[0] - before[0], total]))
"""

    def measured(rows: int) -> list[int]:
        folder = tmp_path / str(rows)
        folder.mkdir()
        source = Source(folder, rows)
        source.open()
        words = [sys.executable, "-c", script, json.dumps(list(vars(source.entry).values()))]
        done = subprocess.run([*words, source.folder], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    (read, anonymous, total), (read_large, anonymous_large, total_large) = map(
        measured, (100, 5000)
    )
    assert total_large > 40 * total  # 6 MB of pixels were looked at
    assert abs(read_large - read) < 100  # bytes, by opening: the manifest's numbers are longer
    assert anonymous_large < anonymous + 1000  # kB, after all of it was looked at


def test_each_class_has_its_share_in_each_split_and_no_example_is_lost(place: Place) -> None:
    found = open_data("digits", place, Watch())
    everything = Counter[tuple[bytes, int]]()
    total = np.bincount(np.concatenate([split.target for split in found.splits.values()]))
    for split in found.splits.values():
        share = total * len(split) / 1797
        assert np.abs(np.bincount(split.target) - share).max() < 2
        everything.update(
            (x.tobytes(), int(y)) for x, y in zip(split.inputs, split.target, strict=True)
        )
    import sklearn.datasets

    data = sklearn.datasets.load_digits()
    pixels = data.data.astype(np.uint8)
    assert everything == Counter(
        (x.tobytes(), int(y)) for x, y in zip(pixels, data.target, strict=True)
    )


def test_the_splits_are_the_same_ones_everywhere(place: Place) -> None:
    assert open_data("digits", place, Watch()).digest == (
        "88e815b239e8110fada2866e6e247489297941fd4d5d54cc4644203b0d9ecbf9"
    )


def test_the_pictures_of_garments_are_the_same_ones_everywhere(place: Place) -> None:
    found = open_data("fashion-mnist", place, Watch())
    assert found.digest == "fc36b2bb4750441df9015eca9908927515863d86050b4189ee351f795645bd9e"
    assert np.bincount(found.splits["validation"].target).tolist() == [500] * 10
