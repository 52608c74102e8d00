"""Training as SageMaker asks for it: folders of /opt/ml, an interruption, a failure, two hosts."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from lockstep.bundles.archive import unpack
from lockstep.examples.models.digits import Predictor
from lockstep.publishing.bundle import Bundle, made
from lockstep.records.run import Run
from lockstep.sagemaker.job import Job, first_ends_first, hand_over
from lockstep.tests.conftest import ROOT, command, copy_of_tracked_files, plain_environment
from lockstep.tests.services import free_ports

BRIEF = {"training.epochs": "2", "data.limit": "300", "training.checkpoint_every": "3"}

pytestmark = pytest.mark.slow


def job(ml: Path, hyperparameters: dict[str, Any], **resources: Any) -> None:
    """The folders as the service makes them; it hands on all hyperparameters as text."""
    config = ml / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    one = {"current_host": "localhost", "hosts": ["localhost"], "network_interface_name": "lo"}
    (config / "resourceconfig.json").write_text(json.dumps(one | resources))
    for name in ("output", "model", "input/data/train"):
        (ml / name).mkdir(parents=True)


def start(ml: Path, data: Path, action: str = "train", **variables: str) -> "subprocess.Popen[str]":
    folders = {"LOCKSTEP_ML": str(ml), "LOCKSTEP_DATA": str(data), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", "container", action],
        cwd=ml,
        env=plain_environment() | folders | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(ml: Path, *processes: "subprocess.Popen[str]") -> None:
    """Until the job has saved; none of its hosts ends before that."""
    while not list(ml.glob("checkpoints/*/checkpoints/0*")):
        assert {process.poll() for process in processes} == {None}
        time.sleep(0.02)


def test_a_job_leaves_the_model_where_the_service_takes_it(
    tmp_path: Path, data_folder: Path
) -> None:
    ml = tmp_path / "ml"
    job(ml, {"model": "digits", "seed": "42", "sagemaker_program": "x", **BRIEF})
    _, err = (process := start(ml, data_folder)).communicate()
    assert process.returncode == 0, err
    assert Predictor.load(ml / "model").preprocess.labels == [str(digit) for digit in range(10)]
    assert not (ml / "output" / "failure").exists()


def test_what_jobs_left_is_unpacked_by_the_line_of_the_page_and_known_as_runs(
    tmp_path: Path, digits: Run, bundle: Bundle
) -> None:
    """Packed as the service does it: the files of /opt/ml/model without a folder."""
    page = (ROOT / "lockstep" / "docs" / "sagemaker.md").read_text()
    (line,) = re.findall(r"^(mkdir .*model\.tar\.gz.*)$", page, re.MULTILINE)
    hand_over(digits.folder, tmp_path / "model")
    subprocess.run(["tar", "czf", "model.tar.gz", "-C", "model", "."], cwd=tmp_path, check=True)
    (tmp_path / "runs").mkdir()
    names = [digits.name, "another job"]
    for name in names:
        told = line.replace("NAME", shlex.quote(name))
        codes = [subprocess.run(told, shell=True, cwd=tmp_path).returncode for _ in range(2)]
        assert (codes[0], codes[1] != 0) == (0, True)  # nothing is written over
    runs, picture = str(tmp_path / "runs"), str(ROOT / "lockstep" / "docs" / "three.png")
    done = command("runs", "--json", "--runs", runs)
    rows = {row["run"]: row for row in json.loads(done.stdout)}
    own = rows[digits.name]
    assert (sorted(rows), own["state"], own["model"]) == (sorted(names), "finished", "digits")
    assert command("compare", *names, "--runs", runs).returncode == 0
    answers = [command("predict", name, picture, "--runs", runs).stdout for name in names]
    wanted = command("predict", str(digits.folder), picture).stdout
    assert (answers, bool(wanted)) == ([wanted] * 2, True)
    packed = [tmp_path / f"{number}.tar.gz" for number in range(2)]
    for name, path in zip(names, packed, strict=True):
        done = command("bundle", name, "--runs", runs, "--output", str(path))
        assert done.returncode == 0, done.stderr
    assert packed[0].read_bytes() == packed[1].read_bytes() == bundle.content


def test_a_receipt_longer_than_a_pipe_holds_does_not_block_the_job(
    tmp_path: Path, data_folder: Path
) -> None:
    """A receipt of 480 classes has some 90 kB, a pipe 64 KiB."""
    ml, project = tmp_path / "ml", tmp_path / "project"
    rows = (f"w{i} v{i % 7} only{i},c{i % 480:03}\n" for i in range(1920))
    (tmp_path / "many.csv").write_text("text,label\n" + "".join(rows))
    project.mkdir()
    copy_of_tracked_files(project)
    there = {"PYTHONPATH": str(project), "LOCKSTEP_PROJECT": "lockstep.examples"}
    words = ["data", "add", str(tmp_path / "many.csv"), "--name", "many-classes"]
    words += ["--text", "text", "--label", "label"]
    module, variables = [sys.executable, "-m", "lockstep"], plain_environment() | there
    subprocess.run([*module, *words], cwd=project, env=variables, check=True)
    settings = {"model.class_weights": "[]", "model.vocabulary": "64", "training.epochs": "1"}
    job(ml, {"model": "tags", "data.name": "many-classes", "training.workers": "1", **settings})
    process = start(ml, data_folder, **there)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert (ml / "model" / "receipt.json").stat().st_size > 1 << 16


def test_a_spot_interruption_saves_and_the_next_job_goes_on(
    tmp_path: Path, data_folder: Path
) -> None:
    ml = tmp_path / "ml"
    job(ml, {"seed": "1", **BRIEF, "training.epochs": "60"})
    process = start(ml, data_folder)
    wait_for_checkpoint(ml, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert (list((ml / "model").iterdir()), (ml / "output" / "failure").exists()) == ([], False)
    _, err = (process := start(ml, data_folder)).communicate()
    assert process.returncode == 0, err
    assert "resumes at step" in err
    receipt = json.loads((ml / "model" / "receipt.json").read_bytes())
    assert receipt["timing"]["resumed_at_step"] > 0


@pytest.mark.parametrize(
    ("hyperparameters", "told"),
    [
        ({"training.lrr": "1"}, "error: override: training.lrr: no such setting. Did you mean"),
        ({"learning_rate": "1"}, "error: hyperparameter learning_rate: not a known name, expected"),
        ({"model": "digitz"}, "error: digitz: no such model. Did you mean digits?"),
    ],
)
def test_a_mistake_is_told_in_the_failure_file(
    tmp_path: Path, data_folder: Path, hyperparameters: dict[str, str], told: str
) -> None:
    ml = tmp_path / "ml"
    job(ml, hyperparameters)
    _, err = (process := start(ml, data_folder)).communicate()
    assert (process.returncode, "Traceback" in err) == (1, False)
    assert (ml / "output" / "failure").read_text().startswith(told)


def test_two_hosts_train_to_the_bits_of_one(tmp_path: Path, data_folder: Path) -> None:
    digests = []
    one = tmp_path / "one"
    job(one, {"seed": "7", **BRIEF})
    for folders in ([one], two_hosts(tmp_path, {"seed": "7", **BRIEF})):
        processes = [start(ml, data_folder) for ml in folders]
        ended = [(process.communicate(), process.returncode) for process in processes]
        assert {code for _, code in ended} == {0}, ended
        receipt = json.loads((folders[0] / "model" / "receipt.json").read_bytes())
        digests.append((receipt["results"]["weights_sha256"], receipt["timing"]["workers"]))
    assert digests == [(digests[0][0], 1), (digests[0][0], 2)]


def two_hosts(folder: Path, hyperparameters: dict[str, str]) -> list[Path]:
    """The folders of a job of two hosts, which are this machine by two of its addresses."""
    hosts = ["127.0.0.1", "127.0.0.2"]
    for host in hosts:
        job(folder / host, hyperparameters, hosts=hosts, current_host=host)
    return [folder / host for host in hosts]


def test_two_hosts_that_are_interrupted_save_and_go_on(tmp_path: Path, data_folder: Path) -> None:
    folders = two_hosts(tmp_path, {"seed": "1", **BRIEF, "training.epochs": "40"})
    processes = [start(ml, data_folder) for ml in folders]
    wait_for_checkpoint(folders[0], *processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, said
    assert ["Traceback" in text for text in said] == [False, False]
    assert [(ml / "output" / "failure").exists() for ml in folders] == [False, False]
    processes = [start(ml, data_folder) for ml in folders]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "resumes at step" in said[0]


def test_a_mistake_is_told_in_the_failure_files_of_two_hosts(
    tmp_path: Path, data_folder: Path
) -> None:
    folders = two_hosts(tmp_path, {"training.lrr": "1"})
    processes = [start(ml, data_folder) for ml in folders]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    told = [(ml / "output" / "failure").read_text() for ml in folders]
    wanted = "error: override: training.lrr: no such setting. Did you mean"
    assert [text.startswith(wanted) for text in told] == [True, True], said
    assert ["Traceback" in text for text in said] == [False, False]


def test_a_training_that_is_killed_is_told_in_the_failure_file(
    tmp_path: Path, data_folder: Path
) -> None:
    ml = tmp_path / "ml"
    job(ml, {"seed": "1", **BRIEF, "training.epochs": "60"})
    process = start(ml, data_folder)
    wait_for_checkpoint(ml, process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    process.communicate()
    assert (process.returncode, (ml / "output" / "failure").read_text()) == (
        1,
        "error: training: was killed by signal 9; out of memory, perhaps.\n",
    )


def test_a_bundle_and_what_a_job_left_answer_where_the_service_asks(
    tmp_path: Path, data_folder: Path, finished_run: Run
) -> None:
    ml, packed = tmp_path / "ml", tmp_path / "model.tar.gz"
    made(finished_run).write(packed)
    left = tmp_path / "left" / "model"
    hand_over(finished_run.folder, left)
    unpack(packed, ml / "model")
    picture = load_digits().images[3]
    wanted = json.dumps(Predictor.load(finished_run.folder).predict([picture / 16]))
    for folder in (ml, left.parent):
        (port,) = free_ports(1)
        process = start(folder, data_folder, "serve", SAGEMAKER_BIND_TO_PORT=str(port))
        try:
            assert process.stdout
            assert (
                process.stdout.readline()
                == f"serving {finished_run.name} at http://0.0.0.0:{port}\n"
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping") as answer:
                assert answer.status == 200
            body = json.dumps((picture / 16).tolist()).encode()
            address = f"http://127.0.0.1:{port}/invocations"
            question = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(question) as answer:
                assert json.loads(answer.read()) == json.loads(wanted)
        finally:
            process.terminate()
            process.communicate()
        assert process.returncode == 128 + signal.SIGTERM


def test_another_host_ends_after_the_first_has_handed_its_model_over(tmp_path: Path) -> None:
    first, second = (Job(folder) for folder in two_hosts(tmp_path, {}))
    ends: list[str] = []

    def end(job: Job, seconds: float) -> None:
        with first_ends_first(job):
            time.sleep(seconds)
        ends.append(job.host)

    threads = [threading.Thread(target=end, args=pair) for pair in ((first, 0.5), (second, 0.2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [first.host, second.host]
