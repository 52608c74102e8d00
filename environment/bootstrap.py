"""Makes or repairs `.venv`, the environment of Pipfile.lock; ./workbench calls it, stdlib only."""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SITE = VENV / "lib" / "python3.11" / "site-packages"
TOOLS = VENV / "tools"  # uv and pipenv, apart from what they install
TOOLS_PIP: tuple[str | Path, ...] = (TOOLS / "bin" / "python", "-m", "pip")
UNPACKED = VENV / "wheelhouse"  # wheels, while they are installed without a network
LOCK = VENV / "lock"  # held by whoever changes .venv
LOG = VENV / "setup.log"
REQUIREMENTS = VENV / "requirements.txt"  # what uv was told to install
# Root, kind of torch and, in an image, that word; a line each; there only while .venv is whole.
STAMP = VENV / "stamp"
STAMPED_LOCK = VENV / "Pipfile.lock"  # what .venv was made from

# The one address of the project: the PyTorch project's CPU wheels. As find-links, not as an index,
# so that it can offer nothing but torch; asked only where pip's own settings offer no +cpu wheel.
TORCH_CPU = "https://download.pytorch.org/whl/cpu"

LOCK_NAMES = {"packages": "default", "dev-packages": "develop"}  # Pipfile.lock's own words

# What an installer says when it fails (its group is the thing it names), in our words, and what
# to do about it. The first that fits counts.
NOT_OFFERED = "a locked package is not offered"
CAUSES = (
    (r"(no space left|disk quota).*", "the disk is full", "free some space"),
    (
        r"hash mismatch for `(.+?)`|do not match the hashes[\s\S]+?^ +([\w.-]+==\S+)",
        "found another file than the one whose sha256 Pipfile.lock wants",
        "ask who runs the package index, or `invoke lock` if the new file is right",
    ),
    (
        r"failed to fetch: `?([^\s`]+)|connection broken by .+: (\S+)$",
        "no package index answered",
        "check the network and pip's index-url, proxy, cert, find-links (pip config list)",
    ),
    (
        r"no matching distribution found for (\S+)|there is no version of (\S+)"
        r"|(\S+) was not found|(\S+) has no (?:usable )?wheels",
        NOT_OFFERED,
        "check pip's index-url and find-links (pip config list)",
    ),
)


class SetUpError(Exception):
    """What the user is told, in one line."""


class NotToBeHadError(SetUpError):
    """uv or pipenv is not offered for this machine, or does not run on it."""


class Image(NamedTuple):
    """What an image wants besides the locked packages."""

    dev: bool  # the dev-packages and the installers
    compiled: bool  # bytecode


def main() -> int:
    try:
        set_up(options(sys.argv[1:]))
    except SetUpError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error.filename or VENV}: {error.strerror}; cure that, then give the command again")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command repairs what is half done")
        return 130
    return 0


def options(words: Sequence[str]) -> Image | None:
    """What the command line asks for: an image's environment, or None for a working one."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=__doc__)
    parser.add_argument("--image", action="store_true", help="anew, and only what training reads")
    parser.add_argument("--dev", action="store_true", help="with --image: all that is locked")
    parser.add_argument("--compile", action="store_true", help="with --image: bytecode as well")
    chosen = parser.parse_args(words)
    if not chosen.image and (chosen.dev or chosen.compile):
        parser.error("--dev and --compile go with --image")
    return Image(chosen.dev, chosen.compile) if chosen.image else None


def say(words: str) -> None:
    """To stderr: stdout belongs to the task."""
    print(f"workbench: {words}", file=sys.stderr, flush=True)


def set_up(image: Image | None = None) -> None:
    """Bring `.venv` to what Pipfile.lock says.

    The stamp goes first and comes back last. Where it is missing, or tells of another folder or
    another torch, all is made anew: what an interrupted installer left is not to be trusted. For
    an image all is made anew in any case.
    """
    VENV.mkdir(exist_ok=True)
    wait_for_others()
    wanted = (ROOT / "Pipfile.lock").read_text()
    lock = parsed(wanted)
    folder, present_torch = read_stamp()
    torch = choose_torch(present_torch)
    whole = not image and (folder, present_torch) == (str(ROOT), torch) and runs(PYTHON)
    if whole and content(STAMPED_LOCK) == wanted:
        return  # made by the call that this one waited for
    if importlib.util.find_spec("ensurepip") is None:
        raise SetUpError(
            f"{sys.executable}: found no ensurepip, wanted one to begin with; add it (Debian:"
            " apt-get install python3.11-venv) or set LOCKSTEP_PYTHON to another Python 3.11"
        )
    import wheelhouse

    started = time.monotonic()
    dev = () if image and not image.dev else ("dev-packages",)
    categories = ("packages", *dev, torch)
    with wheelhouse.installing(lock, categories):
        STAMP.unlink(missing_ok=True)
        if whole:
            say("Pipfile.lock has changed, bringing .venv to it")
        else:
            say(f"making .venv with Python {platform.python_version()} and torch for {torch}")
            clear()
            venv.create(VENV, symlinks=True, prompt=ROOT.name)
        LOG.write_bytes(b"")
        check_digest(lock, refuse=image is not None)
        install(lock, categories)
    write_atomically(SITE / "lockstep.pth", f"{ROOT}\n")  # `import project` works in any folder
    if image:
        finish(image)
    write_atomically(STAMPED_LOCK, wanted)
    write_atomically(STAMP, f"{ROOT}\n{torch}\n" + ("image\n" if image and not image.dev else ""))
    say(f".venv is ready ({time.monotonic() - started:.0f} s)")


def check_digest(lock: dict[str, Any], refuse: bool) -> None:
    """Say that the lock is of another Pipfile; an image is not made from such a one."""
    found = lock.get("_meta", {}).get("hash", {}).get("sha256", "")
    wanted = pipfile_digest((ROOT / "Pipfile").read_text(), default_index())
    if found == wanted:
        return
    told = f"Pipfile.lock: found a digest of another Pipfile ({found[:8]}, wanted {wanted[:8]})"
    if refuse:
        raise SetUpError(f"{told}; `invoke lock`, then build again")
    say(f"{told}; installing what is locked, `invoke lock` brings it up to date")


def pipfile_digest(pipfile: str, index: str) -> str:
    """The sha256 that pipenv writes into the lock; a Pipfile that names no source has pip's own."""
    content = tomllib.loads(pipfile)
    sources = content.pop("source", [{"name": "pypi", "url": index, "verify_ssl": True}])
    digested = {"_meta": {"sources": sources, "requires": content.pop("requires", {})}}
    for category in ("packages", "dev-packages", *content):
        if category not in ("scripts", "pipfile", "pipenv"):
            pins = {normal(name): pin for name, pin in content.get(category, {}).items()}
            digested[LOCK_NAMES.get(category, category)] = pins
    canonical = json.dumps(digested, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def default_index() -> str:
    """The index that pip asks where no setting names one; its address is pip's, not ours."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    asked = (tools_python(), "-c", code)
    return subprocess.run(asked, env=environment(), capture_output=True, text=True).stdout.strip()


def finish(image: Image) -> None:
    """Leave what is needed and is the same in every build: no log, no caches, no installers."""
    from image import COMPILE, lighten, without_times

    if not image.dev:
        say(f"took out what training never reads: {lighten(SITE) / 1e6:.0f} MB")
        remove(TOOLS)
    without_times(SITE)
    for cache in sorted(VENV.rglob("__pycache__")):
        remove(cache)
    if image.compiled:
        run("compiling", (PYTHON, "-c", COMPILE, SITE))
    for path in (LOG, REQUIREMENTS, VENV / ".lock"):  # the last is uv's
        remove(path)


def wait_for_others() -> None:
    """Take the lock as standard input, so that every process started from here on inherits it.

    An installer that outlives a killed launcher then still holds it, whoever started it, and the
    next launcher waits. To those who read it the lock is an empty file.
    """
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of .venv is under way, waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.dup2(lock, 0)
    os.close(lock)


def read_stamp() -> tuple[str, str]:
    lines = content(STAMP).splitlines()
    return (lines[0], lines[1]) if len(lines) == 2 else ("", "")


def parsed(lock: str) -> dict[str, Any]:
    try:
        entries: dict[str, Any] = json.loads(lock)
    except ValueError as error:
        raise SetUpError(
            f"{ROOT / 'Pipfile.lock'}: found {error}, wanted JSON;"
            " after a merge: git checkout Pipfile.lock, then invoke lock"
        ) from error
    return entries


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def runs(program: Path) -> bool:
    try:
        asked = subprocess.run([program, "--version"], env=environment(), capture_output=True)
    except OSError:
        return False
    return asked.returncode == 0


def clear() -> None:
    """Empty `.venv`; the folder itself stays, it may be a mounted volume, and so do the lock, the
    tools, which have stamps of their own, and the wheels to install."""
    for path in VENV.iterdir():
        if path not in (LOCK, TOOLS, UNPACKED):
            remove(path)


def remove(path: Path) -> None:
    """A file or a folder, or nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: str) -> None:
    aside = path.with_name(path.name + ".new")
    with aside.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def choose_torch(present: str) -> str:
    """LOCKSTEP_TORCH, else what is there, else cpu on x86-64 Linux without an NVIDIA device.

    macOS has the plain wheel (gpu) only, and the lock names the +cpu wheel for x86-64 alone.
    """
    if choice := one_of("LOCKSTEP_TORCH", "cpu", "gpu") or present:
        return choice
    may_be_cpu = (sys.platform, platform.machine()) == ("linux", "x86_64")
    return "cpu" if may_be_cpu and not Path("/dev/nvidiactl").exists() else "gpu"


def one_of(variable: str, *choices: str) -> str:
    found = os.environ.get(variable, "")
    if found and found not in choices:
        wanted = " or ".join(choices)
        raise SetUpError(f"{variable}: found {found!r}, wanted {wanted}; set it so or unset it")
    return found


def install(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """With uv, or where uv is not to be had with pipenv, which is slower; both check hashes."""
    installer = one_of("LOCKSTEP_INSTALLER", "uv", "pipenv")
    if installer != "pipenv":
        try:
            return with_uv(lock, categories)
        except NotToBeHadError as reason:
            if installer == "uv":
                raise
            say(f"{reason}. Going on with pipenv")
    with_pipenv(lock, categories)


def with_uv(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """`uv pip sync`; uv knows nothing of pip's settings, so they are handed to it one by one."""
    uv = tool("uv")
    pip = pip_settings()
    REQUIREMENTS.write_text(export(lock, categories))
    command: list[str | Path] = [uv, "pip", "sync", "--python", PYTHON]
    command += ["--require-hashes", "--no-build", REQUIREMENTS]
    # All indexes are looked at, as pip does; a package planted in one of them fails on its hash.
    command += ["--index-strategy", "unsafe-best-match"]
    for setting, option in (
        ("index-url", "--index-url"),
        ("extra-index-url", "--extra-index-url"),
        ("find-links", "--find-links"),
        ("trusted-host", "--allow-insecure-host"),
    ):
        for value in pip.get(setting, "").split():
            command += [option, Path(value).expanduser() if value.startswith("~") else value]
    for address in torch_addresses(entries(lock, categories).get("torch", {})):
        command += ["--find-links", address]
    if pip.get("no-index") in ("1", "true", "yes", "on"):
        command += ["--no-index"]
    variables = {}
    if timeout := pip.get("timeout") or pip.get("default-timeout"):
        variables["UV_HTTP_TIMEOUT"] = timeout
    if proxy := pip.get("proxy"):
        variables |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    requests_own = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle := pip.get("cert") or requests_own:
        variables["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
        variables["UV_SYSTEM_CERTS"] = "1"
    run("installing the locked packages with uv", command, **variables)


def with_pipenv(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """`pipenv sync`, which leaves what the lock no longer has, so that is taken out here."""
    pipenv = tool("pipenv")
    links = [
        *pip_settings().get("find-links", "").split(),
        *torch_addresses(entries(lock, categories).get("torch", {})),
    ]
    run(
        "installing the locked packages with pipenv",
        [pipenv, "sync", "--categories", " ".join(categories)],
        PIPENV_PIPFILE=str(ROOT / "Pipfile"),
        PIPENV_VENV_IN_PROJECT="1",
        PIPENV_IGNORE_VIRTUALENVS="1",
        PIPENV_DONT_LOAD_ENV="1",
        PIPENV_NOSPIN="1",
        PIP_FIND_LINKS=" ".join(links),
        PIP_ONLY_BINARY=":all:",
    )
    locked = {normal(name) for name in entries(lock, categories)}
    present = {normal(found.name) for found in importlib.metadata.distributions(path=[str(SITE)])}
    if extra := sorted(present - locked):
        pip = (*TOOLS_PIP, "--python", PYTHON)
        run("taking out what is not locked", (*pip, "uninstall", "--yes", *extra))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: dict[str, Any], categories: Sequence[str]) -> dict[str, Any]:
    """The locked packages of several categories of the Pipfile, by name."""
    merged: dict[str, Any] = {}
    for category in categories:
        merged |= lock.get(LOCK_NAMES.get(category, category), {})
    return dict(sorted(merged.items()))


def export(lock: dict[str, Any], categories: Sequence[str]) -> str:
    """Hashed requirements; with three equals signs, as 2.13.0+cpu satisfies ==2.13.0."""
    lines = []
    for name, entry in entries(lock, categories).items():
        marker = f" ; {entry['markers']}" if "markers" in entry else ""
        hashes = [f"    --hash={digest}" for digest in entry["hashes"]]
        version = entry["version"].lstrip("=")
        lines.append(" \\\n".join([f"{name}==={version}{marker}", *hashes]))
    return "\n".join([*lines, ""])


def torch_addresses(torch: dict[str, str]) -> list[str]:
    """Where the +cpu wheel is to be had, if it is wanted and pip's own settings do not offer it."""
    wanted = torch.get("version", "").lstrip("=")
    if not wanted.endswith("+cpu"):
        return []
    asked = (*TOOLS_PIP, "index", "versions", "torch")
    offered = subprocess.run(asked, env=environment(), capture_output=True, text=True).stdout
    return [] if wanted in re.split(r"[\s,()]+", offered) else [f"{TORCH_CPU}/torch/"]


def pip_settings() -> dict[str, str]:
    """pip's settings from its files and PIP_ variables, in its own order of precedence."""
    asked = (*TOOLS_PIP, "config", "list")
    listed = subprocess.run(asked, env=environment(), capture_output=True, text=True).stdout
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.(\S+?)=(.+)$", listed, re.MULTILINE):
            settings[name] = str(ast.literal_eval(value))
    return settings


def tool(name: str) -> Path:
    """uv or pipenv as bootstrap.txt pins and hashes it, in a small environment of their own."""
    program, done = TOOLS / "bin" / name, TOOLS / f"{name}.txt"
    chosen = "\n".join(pin for pin in tool_pins() if pin.startswith("uv==") == (name == "uv"))
    tools_python()
    if content(done) != chosen:
        requirements = TOOLS / "requirements.txt"
        requirements.write_text(chosen)
        how = ("--no-compile", "--only-binary", ":all:", "--require-hashes", "-r", requirements)
        run(f"fetching {name}", (*TOOLS_PIP, "install", *how))
        write_atomically(done, chosen)
    if not runs(program):
        raise NotToBeHadError(f"{name}: it does not run on this machine")
    return program


def tool_pins() -> list[str]:
    """The requirements of bootstrap.txt, one string for each with its hashes."""
    return re.split(r"\n(?=\S)", (ROOT / "environment" / "bootstrap.txt").read_text())


def tools_python() -> Path:
    """The Python of the tools' environment, which has pip; it is made if it is not there."""
    python, home = TOOLS / "bin" / "python", TOOLS / "stamp"
    if content(home) != str(ROOT) or not runs(python):
        run("making room for the installer", (PYTHON, "-m", "venv", "--clear", TOOLS))
        write_atomically(home, str(ROOT))
    return python


def environment(**variables: str | None) -> dict[str, str]:
    """For an installer: without what leads a Python astray, and without what is given as None."""
    changed = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"))
    changed |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"} | variables
    merged = {**os.environ, **changed}
    return {name: value for name, value in merged.items() if value is not None}


def run(doing: str, command: Sequence[str | Path], **variables: str | None) -> None:
    """Run an installer: on a terminal it shows its progress, else it writes to the log."""
    say(doing)
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**variables),
            stdout=sys.stderr if terminal else log,
            stderr=sys.stderr if terminal else log,
        )
        while True:
            try:
                code = process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                if not terminal:
                    say(f"{doing}: {time.monotonic() - started:.0f} s")
    if code:
        raise failure(doing, code, LOG.read_bytes()[begin:].decode(errors="replace"), terminal)


def failure(doing: str, code: int, said: str, terminal: bool) -> SetUpError:
    """What an installer's failure is called, from its own words or the state of the disk."""
    log = "its words are above" if terminal else f"the whole log is {LOG}"
    if shutil.disk_usage(VENV).free < 2**24:
        said += "\nno space left"
    for pattern, cause, next_move in CAUSES:
        if found := re.search(pattern, said, re.IGNORECASE | re.MULTILINE):
            thing = " ".join(next(filter(None, found.groups()), "").split())[:200]
            kind = NotToBeHadError if cause == NOT_OFFERED else SetUpError
            return kind(f"{doing}: {cause} ({thing}); {next_move}, then try again; {log}")
    last = said.strip().rpartition("\n")[2][:200]
    return SetUpError(f"{doing}: exit code {code} ({last}); try again; {log}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # nothing appears beside what was checked out
    sys.path.insert(0, str(Path(__file__).parent))  # python -I puts it nowhere
    import bootstrap  # under its name, as the files beside it import it

    sys.exit(bootstrap.main())
