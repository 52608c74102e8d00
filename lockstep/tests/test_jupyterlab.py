"""JupyterLab as ``invoke notebook`` starts it, by its address and in a browser."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lockstep.tests.conftest import ROOT, copy_of_tracked_files

pytestmark = pytest.mark.slow  # a JupyterLab server

INVOKE = str(Path(sys.executable).with_name("invoke"))
CHROMIUM = "/usr/bin/chromium"
NOTEBOOK = "notebooks/1-explore-the-data"
needs_chromium = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and "LOCKSTEP_CI" not in os.environ,
    reason="no chromium here (Debian: apt-get install chromium)",
)


@dataclass(frozen=True)
class Lab:
    """A server of JupyterLab, and the copy of the clone that it stands in."""

    clone: Path
    port: int
    token: str

    def get(self, path: str, token: str | None) -> tuple[int, Any]:
        """Status and JSON (or None) of an answer."""
        headers = {"Authorization": f"token {token}"} if token is not None else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def plant_kernel(folder: Path, name: str) -> None:
    """A kernel of the user's own that does not even start."""
    (folder / name).mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "mine", "language": "python"}
    (folder / name / "kernel.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """``invoke notebook`` in a copy of the clone, for a user who has kernels and settings."""
    clone, home = (tmp_path_factory.mktemp(name) for name in ("clone", "home"))
    copy_of_tracked_files(clone)
    for name in ("python3", "other"):
        plant_kernel(home / ".local" / "share" / "jupyter" / "kernels", name)
    (home / ".jupyter").mkdir()  # lets the test ask JupyterLab, in the page, what it does
    settings = {"LabApp": {"expose_app_in_browser": True}}
    (home / ".jupyter" / "jupyter_config.json").write_text(json.dumps(settings))
    apart = ("JUPYTER", "LOCKSTEP_RUNS", "PYTHONPATH")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    port = free_port()
    server = subprocess.Popen(
        [INVOKE, "notebook", "--port", str(port)],
        cwd=clone / "notebooks",  # it serves the root from wherever it was started
        env=variables | {"HOME": str(home), "BROWSER": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout
        told = ""
        while not (found := re.search(rf"http://127.0.0.1:{port}/lab\?token=(\w+)", told)):
            line = server.stdout.readline()
            assert line, told
            told += line
        while not answers(port):  # it tells its address a moment before it listens
            time.sleep(0.05)
        with (home / "log").open("w") as log:  # or its pipe would fill, and it would wait
            reader = subprocess.Popen(["cat"], stdin=server.stdout, stdout=log)
        yield Lab(clone, port, found[1])
    finally:
        server.terminate()
        server.wait(60)
        if server.stdout:
            server.stdout.close()
    assert reader.wait(60) == 0  # the pipe ends when the last of the server's processes does
    assert not answers(port)


def test_only_this_machine_and_only_its_token_get_in(lab: Lab) -> None:
    path = "/api/contents/notebooks?content=0"
    statuses = [lab.get(path, token)[0] for token in (None, "", "guess", lab.token[:-1], lab.token)]
    assert (statuses, len(lab.token)) == ([403, 403, 403, 403, 200], 48)
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [row.split()[1] for rows in tables for row in rows if row.split()[3] == "0A"]
    assert [row for row in listening if row.endswith(f":{lab.port:04X}")] == [
        f"0100007F:{lab.port:04X}"
    ]


def test_the_kernel_is_that_of_the_environment_whatever_the_user_has(lab: Lab) -> None:
    _, found = lab.get("/api/kernelspecs", lab.token)
    specs = {name: entry["spec"] for name, entry in found["kernelspecs"].items()}
    names = {name: spec["display_name"] for name, spec in specs.items()}
    assert (found["default"], names) == ("python3", {"python3": "Lockstep"})
    assert specs["python3"]["argv"][:3] == ["python", "-m", "ipykernel_launcher"]
    _, content = lab.get("/api/contents", lab.token)
    assert {"notebooks", "lockstep", "README.md"} <= {item["name"] for item in content["content"]}


def test_news_and_packages_beside_the_lock_are_switched_off(lab: Lab) -> None:
    name = "@jupyterlab/apputils-extension:notification"
    _, found = lab.get(f"/lab/api/settings/{name}", lab.token)
    properties = found["schema"]["properties"]
    assert [properties[key]["default"] for key in ("fetchNews", "checkForUpdates")] == [
        "false",
        False,
    ]
    # What the page is told, in which JupyterLab looks before it offers to install anything.
    with urllib.request.urlopen(f"http://127.0.0.1:{lab.port}/lab?token={lab.token}") as answer:
        page = answer.read().decode()
    config = json.loads(
        re.findall(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page)[0]
    )
    assert config["extensionManager"]["can_install"] is False


@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("many", "found 'many', expected a number from 1 to 65535"),
        ("0", "found '0', expected a number from 1 to 65535"),
        ("65536", "found '65536', expected a number from 1 to 65535"),
        ("-1", "found '-1', expected a number from 1 to 65535"),
    ],
)
def test_a_port_that_cannot_be_is_reported_in_one_line(port: str, told: str) -> None:
    words = [INVOKE, "notebook", f"--port={port}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (2, f"error: --port: {told}\n")


def test_a_port_that_is_taken_is_not_exchanged_for_another(lab: Lab) -> None:
    words = [INVOKE, "notebook", f"--port={lab.port}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, (done.stdout + done.stderr).count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: --port: {lab.port} is not available")
    assert "invoke notebook --port N" in done.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a screen."""
    from playwright.sync_api import sync_playwright

    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    flags = ["--no-first-run", *(f"--disable-{name}" for name in quiet)]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


CURRENT = "window.jupyterapp?.shell.currentWidget"
KERNEL = f"{CURRENT}?.sessionContext?.session?.kernel"
RAN = f"""() => {{
    const cells = {CURRENT}.content.model.sharedModel.cells;
    return cells.every(cell => cell.cell_type !== 'code' || cell.execution_count) &&
        {KERNEL}.status === 'idle';
}}"""
WHERE = f"""async () => {{
    let told = '';
    const code = 'import lockstep; print(lockstep.__file__)';
    const request = {KERNEL}.requestExecute({{code, store_history: false}});
    request.onIOPub = message => told += message.content.text ?? '';
    await request.done;
    return told;
}}"""
WIDTHS = "images => images.map(image => image.complete ? image.naturalWidth : 0)"


@pytest.mark.slow
@needs_chromium
def test_in_a_browser_the_token_opens_notebook_1_which_runs_draws_and_saves(
    lab: Lab, browser: Any, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.set_default_timeout(180_000)
    page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/{NOTEBOOK}.ipynb")
    assert page.url.startswith(f"http://127.0.0.1:{lab.port}/login?")
    page.fill("#password_input", "guess")
    page.click("#login_submit")
    assert "Invalid credentials" in page.inner_text("body")
    page.fill("#password_input", lab.token)
    page.click("#login_submit")

    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
    assert page.inner_text(".jp-Toolbar-kernelName").strip().startswith("Lockstep")
    assert page.evaluate(WHERE) == f"{lab.clone / 'lockstep' / '__init__.py'}\n"
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(RAN)
    pictures = page.locator(".jp-OutputArea-output img")
    pictures.nth(2).wait_for(state="attached")
    widths = pictures.evaluate_all(WIDTHS)
    assert (len(widths), min(widths) > 300) == (3, True)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
                        ).count() == 0  # fmt: skip

    page.click("li[data-id='table-of-contents']")
    page.wait_for_selector(".jp-TableOfContents .jp-tocItem-heading")
    headings = page.locator(".jp-TableOfContents .jp-tocItem-content").all_inner_texts()
    assert [text.strip() for text in headings] == [
        "1. Explore the data",
        "What the examples look like",
        "Are the labels balanced?",
        "What does a label look like on average?",
    ]
    assert "Jupyter news" not in page.inner_text("body")
    page.screenshot(path=tmp_path / "notebook.png")
    print(tmp_path / "notebook.png")

    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function(f"() => !{CURRENT}.context.model.dirty")
    page.close()
    saved = lab.clone / f"{NOTEBOOK}.ipynb"
    assert '"image/png"' in saved.read_text()
    done = subprocess.run([INVOKE, "format"], cwd=lab.clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    halves = [(folder / f"{NOTEBOOK}{end}").read_bytes() for end in (".py", ".ipynb")
              for folder in (ROOT, lab.clone)]  # fmt: skip
    assert halves[0::2] == halves[1::2]
