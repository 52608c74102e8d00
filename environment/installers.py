"""uv, pipenv and pip, pinned in bootstrap.txt, in an environment of their own; stdlib only."""

from __future__ import annotations

import ast
import os
import re
import tempfile
import tomllib
from pathlib import Path
from urllib.parse import unquote

from process import (
    PYTHON,
    ROOT,
    TOOLS,
    NotOfferedError,
    content,
    output,
    run,
    runs,
    write_atomically,
)

PIP: tuple[str | Path, ...] = (TOOLS / "bin" / "python", "-m", "pip")

# pip's settings of where packages come from.
_SOURCES = (
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "keyring-provider"),
    *("cert", "client-cert", "proxy", "timeout", "default-timeout", "retries"),
    *("cache-dir", "no-cache-dir", "use-feature", "use-deprecated"),
)

# The one address of the project: the PyTorch project's CPU wheels. As find-links, not as an index,
# so that it can offer nothing but torch; asked only where pip's own settings offer no +cpu wheel.
TORCH_CPU = "https://download.pytorch.org/whl/cpu"


def tool(name: str) -> Path:
    """Return the program of uv or pipenv, as bootstrap.txt pins and hashes it."""
    program, done = TOOLS / "bin" / name, TOOLS / f"{name}.txt"
    chosen = "\n".join(pin for pin in tool_pins() if pin.startswith("uv==") == (name == "uv"))
    tools_python()
    if content(done) != chosen:
        requirements = TOOLS / "requirements.txt"
        requirements.write_text(chosen)
        how = ("--no-compile", "--only-binary", ":all:", "--require-hashes", "-r", requirements)
        run(f"fetching {name}", (*PIP, "install", *how), **pip_variables())
        write_atomically(done, chosen)
    if not runs(program):
        raise NotOfferedError(f"{name}: does not run on this machine")
    return program


def tool_pins() -> list[str]:
    """The requirements of bootstrap.txt, one string for each with its hashes."""
    return re.split(r"\n(?=\S)", (ROOT / "environment" / "bootstrap.txt").read_text())


def tools_python() -> Path:
    """Return the Python of the tools' environment, which has pip; make it if it is not there."""
    python, home = TOOLS / "bin" / "python", TOOLS / "stamp"
    if content(home) != str(ROOT) or not runs(python):
        run("making an environment for the installer", (PYTHON, "-m", "venv", "--clear", TOOLS))
        write_atomically(home, str(ROOT))
    return python


def pip_settings() -> dict[str, str]:
    """pip's settings from its files and PIP_ variables, in its own order of precedence."""
    listed = output(*PIP, "config", "list")
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.(\S+?)=(.+)$", listed, re.MULTILINE):
            settings[name] = str(ast.literal_eval(value))
    return settings


def pip_variables() -> dict[str, str | None]:
    """Variables that keep pip's settings of where packages come from, and none of its others.

    One that says where they go, or which files are acceptable, is not meant for `.venv`.
    """
    pip = {name: value for name, value in pip_settings().items() if name in _SOURCES}
    others = dict.fromkeys(name for name in os.environ if name.startswith("PIP_"))
    kept = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in pip.items()}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return others | kept | own


def default_index() -> str:
    """The index that pip asks where no setting names one; its address is pip's, not ours."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return output(tools_python(), "-c", code).strip()


def offered_files(pin: str, torch: dict[str, str], universal: bool) -> dict[str, str]:
    """What the indexes offer of NAME==VERSION for this platform, or for any: sha256 to file name.

    It is empty if they cannot be asked, and has no files of which they do not say the digest.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.in"
        requirements.write_text(pin.replace("==", "==="))
        settings, variables = uv_settings(torch)
        command: list[str | Path] = [tool("uv"), "pip", "compile", "--no-config", "--quiet"]
        command += ["--no-deps", "--format", "pylock.toml", "--python", PYTHON]
        command += ["--universal"] if universal else []
        listed = output(*command, *settings, requirements, **variables)
    try:
        packages = tomllib.loads(listed).get("packages", [])
    except tomllib.TOMLDecodeError:
        packages = []
    return {
        file["hashes"]["sha256"]: unquote(file["url"]).rpartition("/")[2]
        for package in packages
        for file in [*package.get("wheels", []), package.get("sdist", {})]
        if "url" in file and "sha256" in file.get("hashes", {})
    }


def torch_addresses(torch: dict[str, str]) -> list[str]:
    """Where to find a locked +cpu wheel of torch that pip's own settings do not offer."""
    version = torch.get("version", "").lstrip("=")
    if not version.endswith("+cpu"):
        return []
    offered = output(*PIP, "index", "versions", "torch")
    return [] if version in re.split(r"[\s,()]+", offered) else [f"{TORCH_CPU}/torch/"]


def uv_settings(torch: dict[str, str]) -> tuple[list[str | Path], dict[str, str]]:
    """pip's settings as options and variables of uv, which does not read them.

    `torch` is its entry in the lock: its +cpu wheel may need an address of its own.
    """
    pip = pip_settings()
    # All indexes are searched, as pip does; a package planted in one of them fails on its hash.
    options: list[str | Path] = ["--index-strategy", "unsafe-best-match"]
    for setting, option in (
        ("index-url", "--index-url"),
        ("extra-index-url", "--extra-index-url"),
        ("find-links", "--find-links"),
        ("trusted-host", "--allow-insecure-host"),
    ):
        for value in pip.get(setting, "").split():
            options += [option, Path(value).expanduser() if value.startswith("~") else value]
    for address in torch_addresses(torch):
        options += ["--find-links", address]
    if pip.get("no-index") in ("1", "true", "yes", "on"):
        options += ["--no-index"]
    variables = {}
    if timeout := pip.get("timeout") or pip.get("default-timeout"):
        variables["UV_HTTP_TIMEOUT"] = timeout
    if proxy := pip.get("proxy"):
        variables |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    requests_own = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle := pip.get("cert") or requests_own:
        variables["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
        variables["UV_SYSTEM_CERTS"] = "1"
    return options, variables
