"""MLflow's page as ``invoke ui`` starts it, by its address and in a browser."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lockstep.records.run import runs
from lockstep.tests.conftest import ROOT, command, plain_environment
from lockstep.tests.services import free_ports
from lockstep.tests.test_jupyterlab import answers, browser, needs_chromium  # noqa: F401

pytestmark = pytest.mark.slow  # MLflow's server

INVOKE = str(Path(sys.executable).with_name("invoke"))
BRIEF = ("digits/base", "training.workers=1", "training.epochs=12", "training.checkpoint_every=60")
PLAIN = {"LOCKSTEP_TRACK": "on", "MLFLOW_TRACKING_URI": ""}


@dataclass(frozen=True)
class Page:
    """A running ``invoke ui``: the runs it shows, its port, its process."""

    folder: Path
    port: int
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[Page]:
    """The page of three finished runs, which only differ in how fast they learn."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    for rate in ("0.001", "0.004", "0.016"):
        words = (*BRIEF, f"training.lr={rate}", "--seed", "42", "--runs", str(folder))
        assert command("train", *words).returncode == 0
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [INVOKE, "ui", "--port", str(port), "--runs", str(folder)],
        cwd=ROOT,
        env=plain_environment() | PLAIN | {"http_proxy": "http://127.0.0.1:9"},  # not for us
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}\n"
        yield Page(folder, port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        process.stdout.close()
    assert (code, answers(port), of_the_page(port)) == (0, False, [])


def of_the_page(port: int) -> list[str]:
    """The processes that have the page's port among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(port).encode() in words:
            found.append(path.parent.name)
    return found


def test_only_this_machine_gets_in_and_a_port_that_is_taken_is_reported_in_one_line(
    page: Page,
) -> None:
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [row.split()[1] for rows in tables for row in rows if row.split()[3] == "0A"]
    assert [row for row in listening if row.endswith(f":{page.port:04X}")] == [
        f"0100007F:{page.port:04X}"
    ]
    words = ("ui", "--port", str(page.port), "--runs", str(page.folder))
    done = command(*words, **PLAIN)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: --port: {page.port} is not available")


@pytest.mark.slow
@needs_chromium
def test_in_a_browser_it_shows_each_run_and_its_curves_and_a_new_one_comes_by_itself(
    page: Page, browser: Any, tmp_path: Path  # noqa: F811
) -> None:
    shown = browser.new_page(viewport={"width": 1360, "height": 820})
    shown.set_default_timeout(90_000)
    address = f"http://127.0.0.1:{page.port}/#/experiments/1/runs"
    address += "?workflowType=machine_learning&compareRunsMode=CHART"
    shown.goto(address)
    shown.click("[data-component-id='mlflow.assistant.chat_panel.close']")
    first, *others = (run.name for run in runs(page.folder))
    for name in (first, *others):
        shown.get_by_role("link", name=name).wait_for()
    words = (*BRIEF, "training.lr=0.002", "--seed", "42", "--runs", str(page.folder))
    assert command("train", *words).returncode == 0
    (new,) = {run.name for run in runs(page.folder)} - {first, *others}
    for _ in range(60):
        shown.goto("about:blank")
        shown.goto(address)
        shown.get_by_role("link", name=first).wait_for()
        if shown.get_by_role("link", name=new).count():
            break
        shown.wait_for_timeout(1000)
    shown.get_by_role("link", name=new).wait_for()
    shown.get_by_text("test", exact=True).first.click()  # its points make room for the curves
    shown.locator("svg.main-svg").nth(3).wait_for()
    shown.wait_for_timeout(2000)  # the curves are drawn in several goes
    shown.screenshot(path=tmp_path / "mlflow.png")
    print(tmp_path / "mlflow.png")
    shown.close()
