"""Small trees with a workbench of their own, and the wheels, the index, that they install from."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lockfile
import pytest

ROOT = Path(__file__).parents[2]
LOCK = json.loads((ROOT / "Pipfile.lock").read_text())
TASKS = """
import importlib.metadata, os, sys
from invoke import task

@task
def packages(_):
    for found in importlib.metadata.distributions():
        if found.name not in ("pip", "setuptools"):
            print(f"{found.name}=={found.version}")

@task
def prefix(_):
    print(sys.prefix)

@task
def folder(_):
    print(os.getcwd())

@task
def versions(_):
    import alpha
    print(alpha.version)
"""

INVOKE = f"invoke{LOCK['default']['invoke']['version']}"
FIRST = {INVOKE, "alpha==1.0", "beta==1.0", "torch==2.13.0+cpu"}


# A package index of small wheels, made here, and of the real invoke, uv and pipenv.


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: all that a set-up needs, so that it needs no network."""
    folder = tmp_path_factory.mktemp("house")
    pins = folder / "invoke.txt"
    hashes = " ".join(f"--hash={digest}" for digest in LOCK["default"]["invoke"]["hashes"])
    pins.write_text(f"invoke{LOCK['default']['invoke']['version']} {hashes}\n")
    subprocess.run([sys.executable, "-m", "venv", folder / "tools"], check=True)
    fetch = f"download --require-hashes --dest {folder} -r {pins} -r environment/bootstrap.txt"
    pip = folder / "tools" / "bin" / "pip"
    subprocess.run([pip, *fetch.split()], cwd=ROOT, check=True, capture_output=True)
    for name, version in (
        ("alpha", "1.0"),
        ("alpha", "1.1"),
        ("beta", "1.0"),
        ("gamma", "1.0"),
        ("torch", "2.13.0"),
        ("torch", "2.13.0+cpu"),
    ):
        write_wheel(folder, name, version)
    return folder


def write_wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> Path:
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(path, content)
    return wheel


class Index(ThreadingHTTPServer):
    """The wheels of a folder as an index; it may be told to hold back what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        super().__init__(("127.0.0.1", 0), partial(Page, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server_port}"


class Page(SimpleHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(urllib.parse.unquote(self.path))
        self.path = urllib.parse.urlsplit(self.path).path  # as a proxy it is asked for addresses
        if "alpha" in self.path:
            self.server.open.wait()
        with contextlib.suppress(BrokenPipeError):  # who asked was killed
            self.answer()

    def answer(self) -> None:
        if self.path.endswith("/"):
            name = self.path.strip("/").rpartition("/")[2]
            wheels = sorted(Path(self.directory).glob(f"{name.replace('-', '_')}-*.whl"))
            links = "".join(f'<a href="/{wheel.name}">{wheel.name}</a>' for wheel in wheels)
            self.send_response(200 if wheels else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<!DOCTYPE html><html><body>{links}</body></html>".encode())
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(house: Path) -> Iterator[Index]:
    with Index(house) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.open.set()
        server.shutdown()


# A small tree with a workbench.


class Tree:
    def __init__(self, folder: Path, house: Path) -> None:
        self.folder, self.house, self.venv = folder, house, folder / ".venv"
        self.alone = True  # with the house's wheels only, not with this machine's indexes
        self.site = self.venv / "lib" / "python3.11" / "site-packages"
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "workbench", folder)
        shutil.copytree(ROOT / "environment", folder / "environment")
        (folder / "package").mkdir()
        (folder / "package" / "__init__.py").touch()
        (folder / "tasks.py").write_text(TASKS)
        (folder / "Pipfile").write_text("[packages]\n")
        self.lock("alpha==1.0", "beta==1.0")

    def copied(self, folder: Path) -> "Tree":
        tree = Tree(folder, self.house)
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return tree

    def lock(self, *pins: str, spoil: str = "", dev: str = "") -> None:
        """Lock these besides invoke; `spoil` names one that gets another hash."""

        def entry(pin: str) -> dict[str, dict[str, object]]:
            name, _, version = pin.partition("==")
            wheel = self.house / f"{name}-{version}-py3-none-any.whl"
            digest = hashlib.sha256(b"" if name == spoil else wheel.read_bytes()).hexdigest()
            return {name: {"version": f"=={version}", "hashes": [f"sha256:{digest}"]}}

        default = {"invoke": LOCK["default"]["invoke"]}
        for pin in pins:
            default |= entry(pin)
        plain = entry("torch==2.13.0")
        plain["torch"]["version"] = LOCK["gpu"]["torch"]["version"]
        digest = lockfile.pipfile_digest((self.folder / "Pipfile").read_text(), "")
        content = {
            "_meta": {"hash": {"sha256": digest}, "pipfile-spec": 6, "requires": {}, "sources": []},
            "default": default,
            "develop": entry(dev) if dev else {},
            "cpu": entry("torch==2.13.0+cpu"),
            "gpu": plain,
        }
        (self.folder / "Pipfile.lock").write_text(json.dumps(content))

    def environment(self, **variables: str) -> dict[str, str]:
        mine = (
            "LOCKSTEP_",
            "PIPENV_",
            "PYTHON",
            "PYTEST",
            *(("PIP_", "UV_") if self.alone else ()),
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        alone = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.house),
            "UV_CACHE_DIR": str(self.house / "cache"),
        }
        python = {"LOCKSTEP_PYTHON": sys.executable, "LOCKSTEP_TORCH": "cpu"}
        return kept | (alone if self.alone else {}) | python | variables

    def start(self, *words: str, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.folder / "workbench", *words],
            cwd="/",
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *words: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*words, **variables)
        out, err = process.communicate()
        return process.returncode, out, err

    def image(self, *words: str, **variables: str) -> tuple[int, str]:
        """Exit code and messages of `bootstrap.py --image`."""
        python = [sys.executable, "-I", str(self.folder / "environment/bootstrap.py"), "--image"]
        settings = self.environment(**variables)
        done = subprocess.run([*python, *words], env=settings, capture_output=True, text=True)
        return done.returncode, done.stderr

    def packages(self, **variables: str) -> set[str]:
        """What `./workbench packages` prints, once the environment is made."""
        code, out, err = self.call("packages", **variables)
        assert code == 0, err
        return set(out.split())


@pytest.fixture
def tree(tmp_path: Path, house: Path) -> Tree:
    return Tree(tmp_path / "a tree with spaces", house)


def served(index: Index) -> dict[str, str]:
    """Variables that lead pip and uv to the index."""
    return {
        "PIP_NO_INDEX": "",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": f"{index.address}/simple",
        "PIP_TRUSTED_HOST": "127.0.0.1",
        "UV_NO_CACHE": "1",
        "PIP_NO_CACHE_DIR": "1",
    }


def offline(*words: str | Path) -> list[str]:
    """A command in a network namespace of its own, which has nothing in it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", *map(str, words)]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of all that is in a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            bytes(path.readlink()) if path.is_symlink() else path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }
