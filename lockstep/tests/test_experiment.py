"""Runs: same identity, same bits; and what else a run promises."""

import dataclasses
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from lockstep.ground import environment, home, profiles
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import Diverged, EnvironmentMismatch
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records import source, trace
from lockstep.records.receipt import Results
from lockstep.records.run import Run
from lockstep.records.verify import verify
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import command, experiment
from lockstep.training import evaluation

Train = Callable[..., Run]
DIGITS = "lockstep/examples/models/digits"


def results(run: Run) -> Results:
    return run.finished_receipt()["results"]


def elsewhere(place: Place, *overrides: str) -> Run:
    """The same brief run in a folder of its own."""
    other = dataclasses.replace(place, runs=place.runs.with_name("elsewhere"))
    run = run_experiment(experiment("digits/base", *overrides), other, Watch())
    assert run
    return run


def test_the_same_identity_has_the_same_bits_in_another_process(
    finished_run: Run, tmp_path: Path
) -> None:
    brief = ("training.epochs=2", "data.limit=300", "training.checkpoint_every=3")
    assert command("train", "digits", "--seed=42", *brief, f"--runs={tmp_path}").returncode == 0
    other = Run(tmp_path / finished_run.name)
    assert results(other) == results(finished_run)
    for name in ("weights.safetensors", "trace.bin", "metrics.jsonl", "source.zip"):
        assert (other.folder / name).read_bytes() == (finished_run.folder / name).read_bytes()


def test_the_receipt_names_the_digests_of_the_files(finished_run: Run) -> None:
    found = results(finished_run)
    folder = finished_run.folder
    assert found["weights_sha256"] == digest_of(folder / "weights.safetensors")
    assert found["trace_sha256"] == digest_of(folder / "trace.bin")
    assert found["preprocess_sha256"] == digest_of(folder / "preprocess.json")


def test_the_receipt_has_its_keys(finished_run: Run) -> None:
    receipt = finished_run.receipt
    assert receipt
    assert sorted(receipt) == [
        *(
            "accept",
            "digest",
            "environment",
            "identity",
            "level",
            "results",
            "run",
            "schema",
            "timing",
        )
    ]
    assert sorted(receipt["identity"]) == [
        *("data", "digest", "experiment", "packages", "profile", "python", "schema", "source")
    ]
    wanted = {
        "lockstep",
        "python",
        "torch",
        "platform",
        "cpu",
        "threads",
        "git",
        "image",
        "notebook",
    } | {
        "packages",
        "drift",
    }
    assert set(receipt["environment"]) == wanted
    assert receipt["environment"]["threads"] == 1
    assert {"steps", "epochs", "weights_sha256", "trace_sha256", "metrics"} <= set(
        results(finished_run)
    )
    assert sorted(receipt["results"]["metrics"]) == ["test", "validation"]


@pytest.mark.parametrize(
    "change", ["training.lr=0.001", "data.limit=299", "model.width=8", "training.shards=4"]
)
def test_what_decides_bits_decides_the_identity(
    train_briefly: Train, finished_run: Run, change: str
) -> None:
    run = train_briefly("digits/base", change)
    assert run.name != finished_run.name
    assert results(run)["weights_sha256"] != results(finished_run)["weights_sha256"]


def test_another_seed_is_another_run(train_briefly: Train, finished_run: Run) -> None:
    assert results(train_briefly(seed=1))["trace_sha256"] != results(finished_run)["trace_sha256"]


@pytest.mark.parametrize(
    "change",
    [
        "training.checkpoint_every=1",
        pytest.param("training.checkpoint_seconds=0.01", marks=pytest.mark.slow),
        pytest.param("training.keep_checkpoints=5", marks=pytest.mark.slow),
        "training.loaders=2",
    ],
)
def test_what_decides_no_bit_is_not_in_the_identity(
    train_briefly: Train, finished_run: Run, change: str
) -> None:
    run = train_briefly("digits/base", change)
    assert (run.name, results(run)) == (finished_run.name, results(finished_run))


@pytest.mark.parametrize("name", ["lockstep/training/loop.py", f"{DIGITS}/preprocess.py"])
def test_an_edit_of_what_makes_bits_is_another_run(
    train_briefly: Train, finished_run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = source.of_making(home.here(), "digits")
    files[name] += b"EDITED = 1\n"
    monkeypatch.setattr(source, "of_making", lambda *_: files)
    assert train_briefly().name != finished_run.name


@pytest.mark.slow
def test_what_is_edited_while_a_run_starts_does_not_come_into_its_source(
    train_briefly: Train, finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, before = source.of_making, iter([True])

    def edited_after_the_first_look(*words: Any) -> dict[str, bytes]:
        files = read(*words)
        files["lockstep/training/loop.py"] += b"" if next(before, False) else b"EDITED = 1\n"
        return files

    monkeypatch.setattr(source, "of_making", edited_after_the_first_look)
    run = train_briefly()
    assert (run.name, verify(run)) == (finished_run.name, [])


def test_a_finished_run_is_reported_without_making_its_archive(
    train_briefly: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, made = source.archive, list[int]()

    def counted(files: dict[str, bytes]) -> bytes:
        made.append(len(files))
        return archive(files)

    monkeypatch.setattr(source, "archive", counted)
    assert [(train_briefly().state, len(made)) for _ in range(2)] == [("finished", 1)] * 2


@pytest.mark.slow
def test_packages_that_are_not_as_locked_are_said_and_recorded(
    place: Place, finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = environment.installed() | {"numpy": "0.0.1"}
    monkeypatch.setattr(environment, "installed", lambda: there)
    told: list[str] = []
    watch = Watch()
    monkeypatch.setattr(watch, "say", told.append)
    run = run_experiment(experiment(), place, watch)
    assert run and run.receipt
    assert run.receipt["environment"]["drift"][0].startswith("numpy: locked ")
    assert "not as locked" in "".join(told)
    assert run.name != finished_run.name


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(train_briefly: Train) -> None:
    written = (train_briefly().folder / "receipt.json").stat().st_mtime_ns
    assert (train_briefly().folder / "receipt.json").stat().st_mtime_ns == written


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    train_briefly: Train, place: Place
) -> None:
    with pytest.raises(Diverged, match=r"^step \d+: .* is (nan|inf)"):
        train_briefly("digits/base", "training.lr=1e30", "training.checkpoint_every=1")
    (run,) = place.runs.iterdir()
    for path in run.glob("checkpoints/0*/tensors.safetensors"):
        tensors = safetensors.numpy.load(path.read_bytes())
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert not (run / "receipt.json").exists()


@pytest.mark.slow
def test_a_diverged_run_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    done = command("train", "digits", "training.lr=1e30", "data.limit=300", f"--runs={tmp_path}")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors), "Traceback" in done.stderr) == (2, 1, False)


def test_no_loader_outlives_a_training_that_breaks(
    train_briefly: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the error, and with it all that the training held, is being looked at."""
    parts = home.here().module("digits")
    plain, living = parts.loss, list[int]()

    def breaking(model: Any, batch: Any) -> Any:
        living.append(len(multiprocessing.active_children()))
        if living[-1]:
            raise ZeroDivisionError("a bug")
        return plain(model, batch)

    monkeypatch.setattr(parts, "loss", breaking)
    with pytest.raises(ZeroDivisionError) as error:
        train_briefly("digits/base", "training.loaders=2")
    assert (living[-1], multiprocessing.active_children(), error.tb is not None) == (2, [], True)


def test_without_getting_better_it_stops_after_patience(train_briefly: Train) -> None:
    run = train_briefly(
        *("digits/base", "training.lr=0", "training.epochs=9", "training.patience=2")
    )
    assert results(run)["epochs"] == 3  # the first is the best, two more are waited for


@pytest.mark.slow
def test_best_and_last_weights_can_be_kept(train_briefly: Train) -> None:
    words = ("digits/base", "training.lr=0", "training.epochs=3")
    best, last = (train_briefly(*words, f"training.keep={keep}") for keep in ("best", "last"))
    assert (results(best)["kept_step"], results(last)["kept_step"]) == (5, 15)


@pytest.mark.slow
def test_averaged_weights_are_what_is_kept_and_evaluated(train_briefly: Train) -> None:
    plain, averaged = train_briefly(), train_briefly("digits/base", "training.average=0.9")
    columns = [trace.read(run.folder / "trace.bin")["loss"] for run in (plain, averaged)]
    assert columns[0].tolist() == columns[1].tolist()  # training itself is the same
    assert results(plain)["weights_sha256"] != results(averaged)["weights_sha256"]


@pytest.mark.slow
def test_the_trace_tells_the_first_step_that_differs(train_briefly: Train, place: Place) -> None:
    """Another learning rate shows in the weights of the first step, but not yet in its loss."""
    run = train_briefly()
    same = elsewhere(place)
    columns = [trace.read(each.folder / "trace.bin") for each in (run, same)]
    assert columns[0].tobytes() == columns[1].tobytes()
    other = train_briefly("digits/base", "training.lr=0.003")
    found = trace.read(other.folder / "trace.bin")
    first = {
        name: np.flatnonzero(found[name] != columns[0][name])[:1].tolist()
        for name in trace.RECORD.names or ()
    }
    assert first == {"ids": [], "batch": [], "loss": [1], "gradient": [1], "weights": [0]}


def test_metrics_have_a_line_for_each_epoch(finished_run: Run) -> None:
    lines = (finished_run.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 5), (2, 10)]
    losses = trace.read(finished_run.folder / "trace.bin")["loss"]
    assert rows[1]["train"]["loss"] == float(np.mean(losses[5:]))


@pytest.mark.slow
def test_apparel_learns_on_the_real_data(train_briefly: Train) -> None:
    run = train_briefly("apparel/base", "data.limit=12000", "training.epochs=2")
    metrics = results(run)["metrics"]
    assert isinstance(metrics, dict) and metrics["test"]["accuracy"] >= 0.8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda loss: loss.sqrt().square(), "operation aten.sqrt.default: not verified"),
        (lambda loss: torch.set_num_threads(2) or loss, "threads: the model set 2, expected 1"),
    ],
)
def test_what_may_depend_on_the_cpu_lowers_the_level_of_the_run(
    train_briefly: Train, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    parts = home.here().module("digits")
    plain = parts.loss
    monkeypatch.setattr(parts, "loss", lambda model, batch: change(plain(model, batch)))
    try:
        level = train_briefly().finished_receipt()["level"]
    finally:
        torch.set_num_threads(1)
    # (With two threads the self-test fails too, and says so before.)
    assert (level["promise"], level["lowered"][-1]) == ("same bits on this machine", reason)


def test_a_portable_run_of_verified_operations_promises_every_cpu(finished_run: Run) -> None:
    promise = "same bits on any AVX2 x86-64 CPU (portable)"
    assert finished_run.finished_receipt()["level"] == {"promise": promise, "lowered": []}


def test_a_validation_that_differs_from_its_row_at_the_end_is_refused(
    train_briefly: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a package was edited between two parts of a run."""
    run = train_briefly()
    (run.folder / "receipt.json").unlink()
    honest = evaluation.measure

    def others(*words: Any) -> Any:
        found = honest(*words)
        return dataclasses.replace(found, metrics=found.metrics | {"accuracy": 0.0})

    monkeypatch.setattr(evaluation, "measure", others)
    with pytest.raises(EnvironmentMismatch, match=r"validation accuracy of step \d+ is .* and was"):
        train_briefly()
    assert not (run.folder / "receipt.json").exists()


def test_numpy_that_was_loaded_too_early_lowers_the_level(
    train_briefly: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "early", lambda: {"numpy"})
    level = train_briefly("digits/base", "training.epochs=1").finished_receipt()["level"]
    assert level["lowered"] == ["numpy: loaded before the profile was set"]
