"""Two runs side by side: where they part, what is said of it, and what was altered."""

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from lockstep import cli
from lockstep.data.order import Order
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records import compare as comparing
from lockstep.records import trace
from lockstep.records.compare import compare, parting
from lockstep.records.differences import Difference, between_packages, between_parts
from lockstep.records.run import Run
from lockstep.records.verify import verify
from lockstep.run.keeping import open_data
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import ROOT, experiment
from lockstep.tests.records.test_report import Loaded

Train = Callable[..., Run]
STEPS = 10


@pytest.fixture
def copied(finished_run: Run, tmp_path: Path) -> Run:
    """The finished run in another folder, to be changed."""
    return Run(shutil.copytree(finished_run.folder, tmp_path / "elsewhere", symlinks=True))


def unfinished(run: Run) -> Run:
    """The run as if it had been stopped before its end."""
    for name in ("receipt.json", "weights.safetensors", "preprocess.json", "report.html"):
        (run.folder / name).unlink()
    return run


def records(run: Run) -> Any:
    return np.fromfile(run.folder / "trace.bin", trace.RECORD)


def test_a_copy_in_another_folder_has_the_same_bits(finished_run: Run, copied: Run) -> None:
    found = compare(finished_run, copied)
    weights = digest_of(finished_run.folder / "weights.safetensors")
    assert (found.same, found.step, found.tensor, found.differences) == (True, None, None, [])
    assert found.verdict == f"same bits: {STEPS} steps, weights sha256 {weights}"


@pytest.mark.parametrize("column", ["ids", "batch", "loss", "gradient", "weights"])
@pytest.mark.parametrize(
    ("step", "epoch"),
    [(6, 2), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((1, 1), (5, 1), (10, 2)))],
)
def test_the_first_step_and_the_first_column_that_differ_are_named(
    finished_run: Run, copied: Run, column: str, step: int, epoch: int
) -> None:
    changed = records(unfinished(copied))
    names = list(comparing.MEANING)
    for later in names[names.index(column) :]:  # a difference goes on into the columns after it
        field = changed[later][step - 1 :]
        field[:] = np.frombuffer(bytes(b ^ 1 for b in field.tobytes()), field.dtype)
    changed.tofile(copied.folder / "trace.bin")
    found = compare(finished_run, copied)
    assert (found.same, found.step, found.column, found.epoch) == (False, step, column, epoch)
    assert f"from step {step} on (epoch {epoch}; 10 steps in common): {column}: " in found.verdict


def test_every_bit_of_a_million_steps_counts() -> None:
    a = np.zeros(1_000_000, trace.RECORD)
    b = a.copy()
    assert parting(a, b) is None
    for place in (999_999, 65_536, 65_535, 0):  # the last one first: each hides the one before
        b["loss"][place] = -0.0
        assert parting(a, b) == parting(b[: place + 1], a) == place
    a["loss"][0], b["loss"][0] = np.nan, np.nan
    assert parting(a[:10], b[:10]) is None


def test_an_unfinished_run_is_compared_as_far_as_it_goes(finished_run: Run, copied: Run) -> None:
    whole = (copied.folder / "trace.bin").read_bytes()
    (copied.folder / "trace.bin").write_bytes(whole[: 7 * 48 + 5])  # it is writing its eighth
    found = compare(finished_run, unfinished(copied))
    assert (found.same, found.steps) == (True, (10, 7))
    assert found.verdict == ("same bits in the 7 steps in common; not finished: B (elsewhere)")


@pytest.mark.slow
def test_a_run_that_ends_earlier_is_another_one(train_briefly: Train) -> None:
    words = ("digits/base", "training.schedule=constant", "training.warmup=0", "training.keep=last")
    short, long = (train_briefly(*words, f"training.epochs={epochs}") for epochs in (1, 2))
    found = compare(short, long)
    assert (found.same, found.step, found.steps) == (False, None, (5, 10))
    assert found.verdict == (
        "DIFFERENT in length: the same bits for 5 steps, where A ends; B goes on to 10"
    )
    assert found.differences == [Difference("setting", "training.epochs", "1", "2")]


@pytest.mark.slow
def test_other_weights_kept_from_the_same_training_are_told(train_briefly: Train) -> None:
    words = ("digits/base", "training.lr=0")
    found = compare(*(train_briefly(*words, f"training.keep={kept}") for kept in ("best", "last")))
    assert (found.same, found.step, found.tensor) == (False, None, None)
    assert found.verdict == "DIFFERENT after the same 10 steps: kept_step"


def changed_data(place: Place, folder: Path, change: Callable[[Any, Any], None]) -> Place:
    """Digits with something changed in the training split, as a data folder of its own."""
    inputs = open_data("digits", place, Watch()).splits["train"].inputs
    assert isinstance(inputs.base, np.memmap) and inputs.base.filename
    home = Path(inputs.base.filename).parent
    copy = shutil.copytree(home, folder / "arrays" / home.name)
    paths = [copy / f"train-{kind}.npy" for kind in ("inputs", "labels")]
    arrays = [np.load(path, allow_pickle=False) for path in paths]
    change(*arrays)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array, allow_pickle=False)
        manifest["sha256"][path.name] = digest_of(path)
    (copy / "manifest.json").write_bytes(readable_json(manifest))
    return Place(folder / "runs", folder)


@pytest.mark.slow
@pytest.mark.parametrize("sample", [131, 7])
@pytest.mark.parametrize("what", ["pixels", "label"])
def test_the_step_is_named_at_which_a_changed_sample_is_first_used(
    place: Place, tmp_path: Path, sample: int, what: str
) -> None:
    def change(inputs: Any, labels: Any) -> None:
        if what == "label":
            labels[sample] = (labels[sample] + 1) % 10
            return
        # Two pixels change places: mean and deviation stay, which enter every batch. They are
        # inside, because pictures are moved by a pixel.
        inside = inputs[sample, 1:7, 1:7]
        x, y = np.argwhere(inside != inside[0, 0])[0]
        inside[0, 0], inside[x, y] = inside[x, y], inside[0, 0]

    # All of them: a part of the rows is chosen by their labels.
    whole = experiment("digits/base", "data.limit=0", "training.epochs=1")
    one = run_experiment(whole, place, Watch())
    other = run_experiment(whole, changed_data(place, tmp_path / what, change), Watch())
    assert one and other
    used = np.flatnonzero(Order(1257, 42, 0).at(0, 1257) == sample)[0] // 64 + 1
    found = compare(one, other)
    assert (found.step, found.column, found.epoch) == (used, "batch", 1)
    assert [(row.part, row.name) for row in found.differences] == [("data", "digest")]
    assert found.verdict.endswith(": batch: other bytes of the same samples")


@pytest.mark.slow
def test_what_is_fitted_on_the_data_brings_a_changed_pixel_into_the_first_step(
    place: Place, finished_run: Run, tmp_path: Path
) -> None:
    def change(inputs: Any, labels: Any) -> None:
        inputs[7, 3, 3] += 1

    other = run_experiment(experiment(), changed_data(place, tmp_path / "data", change), Watch())
    assert other
    found = compare(finished_run, other)
    assert (found.step, found.column) == (1, "batch")
    assert [(row.part, row.name) for row in found.differences] == [
        ("data", "digest"),
        ("preprocessing", "deviation"),
        ("preprocessing", "mean"),
    ]


@pytest.mark.slow
def test_another_setting_is_named_with_both_values(train_briefly: Train, finished_run: Run) -> None:
    other = train_briefly("digits/base", "training.lr=0.003", "training.loaders=1")
    found = compare(finished_run, other)
    assert (found.step, found.column) == (1, "weights")
    assert found.tensor and found.tensor.differing > 0
    assert found.differences == [Difference("setting", "training.lr", "0.004", "0.003")]


def test_files_packages_and_profiles_are_named(finished_run: Run) -> None:
    mine, other = finished_run.parts, finished_run.parts
    version = mine["packages"]["xxhash"][0]
    other["source"]["lockstep/training/loop.py"] = "f" * 64
    del other["source"]["lockstep/training/checkpoint.py"]
    other["packages"] |= {"numpy": ["0.1", "not as locked"], "more": ["1", "not as locked"]}
    other["packages"]["xxhash"][1] = f"not as locked, wheel {'e' * 64}"
    other["profile"] = {"name": "native", "device": "cpu", "cpu": "a CPU"}
    found = between_parts(mine, other)
    assert {(row.part, row.name): row.b for row in found} == {
        ("source", "lockstep/training/loop.py"): "sha256 ffffffffffff",
        ("source", "lockstep/training/checkpoint.py"): "not there",
        ("package", "numpy"): "0.1",
        ("package", "xxhash"): f"{version}, not as locked, wheel eeeeeeeeeeee",
        ("package", "more"): "1",
        ("profile", "name"): "native",
        ("profile", "cpu"): "a CPU",
    }


OLD, OTHER_OLD, WHEEL, DRIFTED = "a" * 64, "b" * 64, f"wheel {'c' * 64}", "not as locked"


@pytest.mark.parametrize(
    ("mine", "other", "shown"),
    [
        # An identity before schema 3 has a digest of the lock's hashes, which names no wheel.
        (OLD, WHEEL, []),
        (WHEEL, OLD, []),
        (OLD, f"{DRIFTED}, {WHEEL}", ["1, as locked", f"1, {DRIFTED}, wheel cccccccccccc"]),
        (OLD, OTHER_OLD, ["1, locked as aaaaaaaaaaaa", "1, locked as bbbbbbbbbbbb"]),
        (DRIFTED, WHEEL, [f"1, {DRIFTED}", "1, wheel cccccccccccc"]),
        (f"wheel {'d' * 64}", WHEEL, ["1, wheel dddddddddddd", "1, wheel cccccccccccc"]),
        (f"edited {OLD}", OLD, ["1, edited aaaaaaaaaaaa", "1, as locked"]),
    ],
)
def test_what_two_identities_say_of_a_package_is_compared_as_far_as_both_say_it(
    mine: str, other: str, shown: list[str]
) -> None:
    rows = between_packages({"gain": ["1", mine]}, {"gain": ["1", other]})
    assert [text for row in rows for text in (row.a, row.b)] == shown


def test_the_first_tensor_is_that_of_the_models_order(tmp_path: Path) -> None:
    def written(name: str, order: str | None, **changes: float) -> Path:
        tensors = {f"block.{i}.weight": np.zeros(4, np.float32) for i in (2, 10)}
        tensors |= {"head": np.zeros(3, np.float32), "a.count": np.ones(1, np.int64)}
        for key, value in changes.items():
            tensors[key.replace("__", ".")][1:] = value
        (tmp_path / name).mkdir()
        content = safetensors.numpy.save(tensors, {"order": order} if order else None)
        (tmp_path / name / "weights.safetensors").write_bytes(content)
        return tmp_path / name

    order = json.dumps(["head", "a.count", "block.10.weight", "block.2.weight"])
    first, second = {"block__2__weight": 0.5}, {"block__10__weight": -2.0}
    plain, other = written("plain", None), written("other", None, **first, **second)
    told = comparing._first_tensor(plain, other)
    assert told == comparing.TensorDifference("block.2.weight", 3, 4, 0.5)
    plain, other = written("ordered", order), written("others", order, **first, **second)
    told = comparing._first_tensor(plain, other)
    assert told == comparing.TensorDifference("block.10.weight", 3, 4, 2.0)
    assert comparing._first_tensor(plain, plain) is None


def test_tensors_of_any_kind_are_compared_by_their_bits(tmp_path: Path) -> None:
    def first(a: torch.Tensor, b: torch.Tensor) -> comparing.TensorDifference | None:
        for name, tensor in (("a", a), ("b", b)):
            (tmp_path / name).mkdir(exist_ok=True)
            content = safetensors.torch.save({"x": tensor})
            (tmp_path / name / "weights.safetensors").write_bytes(content)
        return comparing._first_tensor(tmp_path / "a", tmp_path / "b")

    told = comparing.TensorDifference
    half = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    assert first(half, half + torch.tensor([0.0, 1.0, 0.5])) == told(
        "x (BF16 [3] and F32 [3])", 0, 0, None
    )
    assert first(half, half * 2) == told("x", 3, 3, 3.0)
    assert first(torch.tensor([0.0]), torch.tensor([-0.0])) == told("x", 1, 1, 0.0)
    assert first(torch.tensor([torch.nan]), torch.tensor([torch.nan])) is None
    assert first(torch.tensor([torch.nan]), torch.tensor([1.0])) == told("x", 1, 1, None)
    assert first(torch.tensor([True]), torch.tensor([False])) == told("x", 1, 1, None)
    assert first(torch.tensor(5), torch.tensor(2)) == told("x", 1, 1, 3.0)
    assert first(torch.zeros(0), torch.zeros(0)) is None


WHOLE = (
    *("identity.json", "parts.json", "receipt.json", "source.zip"),
    *("trace.bin", "weights.safetensors", "preprocess.json"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_flipped_bit_is_found_and_its_file_named(copied: Run, name: str) -> None:
    assert verify(copied) == []
    path, chance = copied.folder / name, random.Random(name)
    content = path.read_bytes()
    for place in (0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(30))):
        flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        assert any(name in problem for problem in verify(copied)), (place, flipped)
    path.unlink()
    missing = [problem for problem in verify(copied) if name in problem]
    assert len(missing) >= (name != "receipt.json")  # without a receipt it is an unfinished run


def test_a_file_that_was_rewritten_with_care_is_found_all_the_same(copied: Run) -> None:
    written = (copied.folder / "receipt.json").read_bytes()
    receipt = json.loads(written)
    receipt["results"]["metrics"]["test"]["accuracy"] = 1.0
    (copied.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert [problem.partition(":")[0] for problem in verify(copied)] == ["receipt.json"]
    del receipt["digest"]
    (copied.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert verify(copied)[0].startswith("receipt.json: digest not found")
    (copied.folder / "receipt.json").write_bytes(written)

    yaml = copied.folder / "experiment.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("checkpoint_every: 3", "checkpoint_every: 4"))
    assert verify(copied) == []  # decides no bit
    yaml.write_text(text.replace("lr: 0.004", "lr: 0.005"))
    told = ["experiment.yaml: its settings are not those of the identity"]
    assert verify(copied) == told
    yaml.write_text(text)

    parts = copied.parts
    parts["data"] = "0" * 64
    (copied.folder / "parts.json").write_bytes(readable_json(parts))
    assert verify(copied) == ["parts.json: data is not what identity.json names"]


def test_altered_runs_are_refused_by_name(copied: Run, finished_run: Run) -> None:
    path = copied.folder / "trace.bin"
    path.write_bytes(path.read_bytes()[:-48])
    for pair in ((copied, finished_run), (finished_run, copied)):
        with pytest.raises(RunError, match=rf"^{copied.folder}: was altered: trace.bin: sha256 "):
            compare(*pair)


def test_a_receipt_of_another_run_is_found(copied: Run, finished_run: Run) -> None:
    receipt = json.loads((finished_run.folder / "receipt.json").read_bytes())
    del receipt["digest"]
    receipt["identity"]["data"] = "0" * 64
    receipt["digest"] = digest_of(canonical_json(receipt))
    (copied.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert verify(copied) == ["receipt.json: it is of another identity than identity.json"]


@pytest.mark.slow
def test_the_verb_answers_with_its_exit_code(
    finished_run: Run, copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(finished_run.folder), str(copied.folder)]
    assert (cli.main(words), capsys.readouterr().out.count("\n")) == (0, 1)
    changed = records(unfinished(copied))
    changed["batch"][6:] += 1
    changed.tofile(copied.folder / "trace.bin")
    page = copied.folder / "where.html"
    assert cli.main([*words, "--report", str(page)]) == 1
    verdict, told = capsys.readouterr().out.splitlines()
    assert verdict.startswith("DIFFERENT from step 7 on (epoch 2; ")
    assert told.startswith("explanation  none in what is recorded")
    assert cli.main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["step"], found["column"]) == (False, 7, "batch")
    (copied.folder / "source.zip").write_bytes(b"")
    assert (cli.main(words), "source.zip" in capsys.readouterr().err) == (2, True)

    shown = Loaded(page.read_bytes())
    assert {address[0] for address in shown.addresses} == {"#"}  # parts of its own drawings
    assert "script" not in shown.tags
    assert (verdict in shown.text, "part at step 7" in shown.text) == (True, True)


def test_the_page_shows_names_as_they_are(finished_run: Run) -> None:
    rows = [Difference("setting", "model.name", "<b>a</b>", "{b}")]
    found = dataclasses.replace(
        compare(finished_run, finished_run), names=("<i>A</i>", "B"), step=3, differences=rows
    )
    shown = Loaded(comparing.page(finished_run, finished_run, found))
    assert ("<i>A</i>" in shown.text, "<b>a</b>{b}" in shown.text) == (True, True)


def test_comparing_loads_nothing_heavy(finished_run: Run) -> None:
    folder = str(finished_run.folder)
    code = f"""
import sys
from lockstep.cli import main
main(["compare", {folder!r}, {folder!r}])
print(sorted({{"torch", "sklearn", "matplotlib", "PIL"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["[]"]
