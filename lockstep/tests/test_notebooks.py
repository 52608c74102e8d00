"""Notebooks: they run, they are their scripts, and what they train says where it comes from."""

import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from PIL import Image

from lockstep.ground import profiles
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command

NOTEBOOKS = ROOT / "notebooks"
PICTURES = {
    "1-explore-the-data": 3,
    "2-train-and-read-a-receipt": 1,
    "3-compare-two-runs": 1,
    "4-look-at-mistakes": 2,
}
BRIEF = ("digits", "training.epochs=2", "data.limit=300", "training.checkpoint_every=1")
Cells = list[list[dict[str, Any]]]


def variables(runs: Path) -> dict[str, str]:
    """The environment of a kernel: that of these tests, without the profile they have entered."""
    ours = profiles.variables("portable").keys()
    others = {name: value for name, value in os.environ.items() if name not in ours}
    return others | {"LOCKSTEP_RUNS": str(runs), "PYTHONPATH": str(ROOT)}


def execute(notebook: Any, runs: Path, folder: Path = NOTEBOOKS, errors: bool = False) -> Cells:
    """The outputs of each code cell, run in a kernel of its own as JupyterLab does."""
    client = NotebookClient(
        notebook,
        timeout=300,
        allow_errors=errors,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=variables(runs))
    return [cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"]


def cells(*sources: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])


def receipt(folder: Path) -> dict[str, Any]:
    """The receipt of the one run in a folder."""
    (path,) = folder.glob("*/receipt.json")
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def bits(content: dict[str, Any]) -> list[Any]:
    """What must not depend on who trained."""
    names = ("weights_sha256", "trace_sha256", "metrics_sha256", "preprocess_sha256")
    return [content["identity"], *(content["results"][name] for name in names)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that the notebooks share, as they do in a clone."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"),
    [(name, NOTEBOOKS) for name in PICTURES] + [("1-explore-the-data", ROOT)],
    ids=lambda value: str(value) if isinstance(value, str) else value.name,
)
def test_a_notebook_runs_from_top_to_bottom_and_draws_its_pictures(
    name: str, folder: Path, trained: Path
) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    outputs = [item for cell in execute(notebook, trained, folder) for item in cell]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(item["data"]["image/png"])))
        for item in outputs
        if "image/png" in item.get("data", {})
    ]
    assert [len(np.unique(np.asarray(picture))) > 10 for picture in pictures] == [True] * (
        PICTURES[name]
    )
    noise = [item for item in outputs if item["output_type"] == "execute_result"]
    noise += [item for item in outputs if item.get("name") == "stderr"]
    assert noise == []


HOOK = [sys.executable, str(ROOT / "environment" / "hooks.py"), "notebooks"]


def check(folder: Path) -> tuple[int, str]:
    """Exit code and words of the hook for all files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    done = subprocess.run([*HOOK, *names], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_each_notebook_has_its_script_and_nothing_that_its_script_does_not_make() -> None:
    files = {path.name for path in NOTEBOOKS.iterdir() if path.is_file()}
    assert files == {name + end for name in PICTURES for end in (".ipynb", ".py")}
    assert check(NOTEBOOKS) == (0, "")
    for path in NOTEBOOKS.glob("*.ipynb"):
        content = json.loads(path.read_bytes())
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        assert {(len(cell["outputs"]), cell["execution_count"]) for cell in code} == {(0, None)}
        assert content["metadata"] == {
            "kernelspec": {"display_name": "Lockstep", "language": "python", "name": "python3"}
        }


def _change(notebook: dict[str, Any], **changes: Any) -> None:
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code").update(changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda notebook: _change(notebook, source=["1 + 1"]),
        lambda notebook: _change(notebook, execution_count=7),
        lambda notebook: _change(notebook, metadata={"tags": ["mine"]}),
        lambda notebook: _change(
            notebook, outputs=[{"name": "stdout", "output_type": "stream", "text": ["2"]}]
        ),
        lambda notebook: notebook["metadata"].update(language_info={"name": "python"}),
        lambda notebook: notebook["cells"].pop(),
    ],
    ids=["source", "count", "metadata", "output", "language", "cell"],
)
def test_a_notebook_that_is_not_its_script_is_refused(
    spoil: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    for end in (".py", ".ipynb"):
        shutil.copy(NOTEBOOKS / f"3-compare-two-runs{end}", tmp_path / f"mine{end}")
    assert check(tmp_path) == (0, "")
    content = json.loads((tmp_path / "mine.ipynb").read_bytes())
    spoil(content)
    (tmp_path / "mine.ipynb").write_text(json.dumps(content, indent=1) + "\n")
    code, told = check(tmp_path)
    assert (code, told.count("\n")) == (1, 1)
    assert told.startswith("mine.ipynb: is not what mine.py makes")


@pytest.mark.parametrize("end", [".py", ".ipynb"])
def test_half_a_pair_is_refused_by_the_name_of_the_other_half(end: str, tmp_path: Path) -> None:
    shutil.copy(NOTEBOOKS / f"3-compare-two-runs{end}", tmp_path / f"mine{end}")
    code, told = check(tmp_path)
    other = {".py": ".ipynb", ".ipynb": ".py"}[end]
    assert (code, told.count("\n"), told.startswith(f"mine{other}: is missing")) == (1, 1, True)


@pytest.mark.slow
def test_a_run_trained_from_a_notebook_says_so_and_has_the_bits_of_the_command_line(
    tmp_path: Path,
) -> None:
    """In the kernel, by a process that the kernel starts, or begun in the kernel alone."""
    words = ", ".join(map(repr, BRIEF))
    python = f"!{shlex.quote(sys.executable)} -m lockstep train {' '.join(BRIEF)} --seed 5 --runs"
    outputs = execute(
        cells(
            # As people write it: other libraries first, torch before there is anything to train.
            "import numpy, matplotlib.pyplot\nfrom lockstep.notebook import train\nimport torch",
            f"train({words}, seed=5, runs={str(tmp_path / 'kernel')!r})",
            f"train({words}, seed=5, runs={str(tmp_path / 'begun')!r}, until=3)",
            f"{python} {shlex.quote(str(tmp_path / 'started'))}",
        ),
        tmp_path,
    )
    assert "epoch   2 of 2" in "".join(item.get("text", "") for item in outputs[1])

    def train(name: str) -> str:
        done = command("train", *BRIEF, "--seed", "5", "--runs", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "resumes at step 3" not in train("shell")
    ended = train("begun")
    ways = [receipt(tmp_path / name) for name in ("shell", "kernel", "begun", "started")]
    assert [way["environment"]["notebook"] for way in ways] == [False, True, True, True]
    assert [bits(way) for way in ways] == [bits(ways[0])] * 4
    sources = Run(next((tmp_path / "kernel").iterdir())).parts["source"]
    assert sources.keys() & {"lockstep/notebook.py", "lockstep/ground/console.py"} == set()

    name = ways[0]["run"]
    assert ended.splitlines()[3].startswith("trained from a notebook; `invoke reproduce ")
    assert len(train("shell").splitlines()) == 3
    shown = [Run(tmp_path / way / name).summary()["from"] for way in ("shell", "kernel", "begun")]
    assert shown == [None, "notebook", "notebook"]
    lists = [command("runs", "--runs", str(tmp_path / way)).stdout for way in ("shell", "kernel")]
    assert ["notebook" in shown.splitlines()[1] for shown in lists] == [False, True]
    pages = [(tmp_path / way / name / "report.html").read_text() for way in ("shell", "kernel")]
    assert ["Trained from a notebook" in page for page in pages] == [False, True]


@pytest.mark.parametrize("variable", ["JPY_PARENT_PID=1", "MPLBACKEND=module://matplotlib_inline"])
def test_a_process_knows_the_kernel_that_started_it_by_either_of_its_signs(variable: str) -> None:
    code = "from lockstep.ground import environment; print(environment.from_notebook())"
    name, _, value = variable.partition("=")
    found = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout
        for env in (os.environ | {name: value}, dict(os.environ))
    ]
    assert found == ["True\n", "False\n"]


@pytest.mark.slow
def test_torch_loaded_too_early_is_reported_in_one_line_and_nothing_is_trained(
    tmp_path: Path,
) -> None:
    outputs = execute(
        cells("import torch", f"from lockstep.notebook import train\ntrain{BRIEF!r}"),
        tmp_path,
        errors=True,
    )
    (error,) = outputs[1]
    (line,) = error["traceback"]
    assert (error["ename"], line.startswith("error: ")) == ("EnvironmentMismatch", True)
    assert "torch was loaded with none, profile portable needs" in line
    assert "restart the kernel" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_source_that_was_changed_under_a_kernel_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lockstep", tmp_path / "lockstep")
    shutil.copy(ROOT / "Pipfile.lock", tmp_path)
    model = tmp_path / "lockstep" / "examples" / "models" / "digits" / "model.py"
    code = (
        "from lockstep.notebook import train\n"
        f"train(*{BRIEF!r}, until=1)\n"
        f"open({str(model)!r}, 'a').write('MORE = 1\\n')\n"
        f"train(*{BRIEF!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=variables(tmp_path / "runs") | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    told = (
        "EnvironmentMismatch: lockstep/examples/models/digits/model.py: changed since this process"
    )
    assert told in done.stderr.splitlines()[-1]
    assert len(list((tmp_path / "runs").glob("*/identity.json"))) == 1


@pytest.mark.slow
def test_an_interrupted_cell_saves_and_the_same_cell_goes_on_to_the_same_bits(
    tmp_path: Path,
) -> None:
    words = (*BRIEF[:1], "training.epochs=60", *BRIEF[2:])
    cell = f"from lockstep.notebook import train\nrun = train(*{words!r})"
    manager, client = start_new_kernel(env=variables(tmp_path / "kernel"), cwd=str(tmp_path))
    try:
        # Jupyter drops a request that comes in the moment after an error, unless told not to.
        request = client.execute(cell, stop_on_error=False)
        _wait_for(client, "epoch   1 of 60")
        manager.interrupt_kernel()
        reply = _reply(client, request)["content"]
        (line,) = reply["traceback"]
        assert (reply["ename"], line.startswith("stopped at step ")) == ("Interrupted", True)
        assert line.endswith("saved; run the same cell to resume")
        request = client.execute(cell)
        _wait_for(client, "resumes at step ")
        assert _reply(client, request)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    done = command("train", *words, "--runs", str(tmp_path / "shell"))
    assert done.returncode == 0, done.stderr
    assert bits(receipt(tmp_path / "kernel")) == bits(receipt(tmp_path / "shell"))


def _wait_for(client: Any, text: str) -> None:
    told = ""
    while text not in told:
        try:
            told += client.get_iopub_msg(timeout=120)["content"].get("text", "")
        except Empty:
            pytest.fail(f"the kernel never said {text!r}, but {told!r}")


def _reply(client: Any, request: str) -> Any:
    while (message := client.get_shell_msg(timeout=300))["parent_header"]["msg_id"] != request:
        pass
    return message
