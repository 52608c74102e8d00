"""Builds, enters, runs and pushes the images of docker/Dockerfile, as the user who calls."""

import csv
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lockstep.ground import environment, home
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import ContainerError, harmless
from lockstep.ground.files import write_atomically
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch

ROOT = environment.ROOT
DOCKERFILE = ROOT / "docker" / "Dockerfile"
STAGES = ("develop", "train", "serve")
INSIDE = Path("/workspace")  # where the code is in all images

# What a failed build prints, what it means, and what to do about it; the first match counts.
_CAUSES = (
    (r"(no space left on device)", "the engine's disk is full", "free some: docker system prune"),
    (
        r"workbench: (.+; .+)",
        "the locked packages could not be installed",
        "correct that, then build again",
    ),
    (
        r"(buildx (?:component )?is missing.*|unknown flag: --mount|the --mount option requires.*)",
        "this Docker has no BuildKit",
        "install Docker 23 or later, or its buildx plug-in",
    ),
    (
        r"(manifest unknown|manifest for \S+ not found|\S+[:@]\S+: not found|unexpected .*digest.*"
        r"|failed size validation.*|failed to resolve source metadata.*|failed to do request.*)",
        "the base image that docker/Dockerfile names is not offered",
        "check the network and LOCKSTEP_BASE_IMAGE, or `invoke lock --base` for a newer digest",
    ),
)

# What the set-up says of its log, which lies in a layer that a failed build does not keep.
_LOG_INSIDE = re.compile(r"; the whole log is \S+")
_TAIL = 12


def tag(stage: str, torch: str) -> str:
    """The name of an image on this machine."""
    return f"lockstep:{stage}-{torch}"


def build(stage: str, torch: str, watch: Watch, *, offline: bool = False) -> str:
    """Build an image of this working tree and return its name; unchanged layers are reused.

    ``torch`` is ``cpu`` or ``gpu``. ``offline`` allows no network: the packages come from the
    wheelhouse. Raises ContainerError.
    """
    if not DOCKERFILE.exists():
        raise ContainerError(
            f"image: {DOCKERFILE} not found; run this in a clone of the repository."
        )
    refuse_without_engine()
    commit = environment.git()
    words = ["build", "--file", str(DOCKERFILE), "--target", stage, "--tag", tag(stage, torch)]
    arguments = {
        "LOCKSTEP_TORCH": torch,
        "PROJECT": home.package_of_clone(),
        "COMMIT": f"{commit['commit']}{'-dirty' if commit['dirty'] else ''}",
        "LOCK": digest_of(environment.LOCK),
        "BASE_IMAGE": os.environ.get("LOCKSTEP_BASE_IMAGE", ""),
    }
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"] if value else []
    words += ["--network", "none"] if offline else []
    with _pip_settings() as secret:
        _build([*words, "--secret", f"id=pip,src={secret}", "--progress", "plain", "."], watch)
    return tag(stage, torch)


def _build(words: Sequence[str], watch: Watch) -> None:
    """Run ``docker build``, reporting each step, and the last lines and cause of a failure."""
    said = []
    command, variables = ["docker", *words], os.environ | {"DOCKER_BUILDKIT": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if step := re.match(r"#\d+ \[(\S+ +\d+/\d+)\] (.+)", line):
                doing = re.sub(r"--\S+ +", "", step[2])
                watch.doing(f"image: {step[1]} {' '.join(doing.split())[:60]}")
    watch.end()
    if process.returncode:
        whole = "".join(said)
        watch.say(_tail(whole))
        raise ContainerError(_failure(whole))


def _failure(said: str) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="lockstep-build-", suffix=".log", delete=False
    ) as log:
        log.write(said)
    where = f"The log: {log.name}"
    for pattern, cause, next_move in _CAUSES:
        if found := re.findall(pattern, said, re.IGNORECASE):
            reason = _LOG_INSIDE.sub("", found[-1]).strip()[:300]
            return f"image: {cause} ({reason}); {next_move}. {where}"
    failed = re.findall(r"^ > \[.*\n([\s\S]*?)^------$", said, re.MULTILINE)
    last = _plain(last_line(failed[-1] if failed and failed[-1] else said))
    return f"image: the build failed ({last}). {where}"


def _tail(said: str) -> str:
    """The last lines of a build's output, each indented."""
    lines = [harmless(_plain(line))[:300] for line in said.splitlines() if line.strip()]
    return "\n".join(f"  {_LOG_INSIDE.sub('', line)}" for line in lines[-_TAIL:])


def _plain(line: str) -> str:
    return re.sub(r"^#\d+ [\d.]+ ", "", line)


@contextmanager
def _pip_settings() -> Iterator[Path]:
    """Write this machine's pip settings to a file for the build; the image keeps nothing of it."""
    import configparser

    found = configparser.RawConfigParser()
    home = Path.home()
    files: list[str | Path] = [
        "/etc/pip.conf",
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
    ]
    found.read([*files, os.environ.get("PIP_CONFIG_FILE", os.devnull)])
    settings = dict(found["global"]) if "global" in found else {}
    settings |= {
        name[4:].lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }
    lines = ["[global]"]
    for name in ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy"):
        # A build cannot reach this machine's disk.
        reached = [word for word in settings.get(name, "").split() if not _is_local(word)]
        lines += [f"{name} = {' '.join(reached)}"] if reached else []
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "pip.conf"
        secret.touch(0o600)
        secret.write_text("\n".join([*lines, ""]))
        yield secret


def _is_local(place: str) -> bool:
    return place.startswith(("file:", "/", "~", "."))


def run(
    torch: str,
    words: Sequence[str],
    place: Place,
    watch: Watch,
    *,
    gpus: bool = False,
    keeps: bool = False,
    network: bool = True,
    stdout: int | None = None,
) -> int:
    """Run ``python -m lockstep`` with these words in this tree's train image; return its exit code.

    It runs as the user who calls. Only the folders of ``place``, which have the same names inside,
    and a temporary folder are writable; that one outlives the container if it ``keeps`` something
    there. SIGTERM and SIGINT are passed on. Without ``network`` it reaches no other machine. Raises
    ContainerError.
    """
    image = build("train", torch, watch)
    if gpus:
        _refuse_without_gpu(image)
    name = f"lockstep-{uuid.uuid4().hex[:12]}"
    folders = [place.runs.absolute(), place.data.absolute()]
    for folder in folders:  # or else Docker makes them, as root
        folder.mkdir(parents=True, exist_ok=True)
    command = ["docker", "run", "--rm", "--init", "--name", name, "--user", _user(folders[0])]
    command += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    command += ["--shm-size", "1g", "--sig-proxy=false", *(["--gpus", "all"] if gpus else [])]
    command += [] if network else ["--network", "none"]
    if sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty():
        command += ["--interactive", "--tty"]
    for folder in folders:
        command += ["--mount", mount(folder, folder)]
    variables = {"LOCKSTEP_IMAGE": f"{image} {_id(image)}", "LOCKSTEP_DATA": str(folders[1])}
    if package := os.environ.get(home.PROJECT):
        variables[home.PROJECT] = package
    if lent := os.environ.get("LOCKSTEP_DATA_PATH"):
        variables["LOCKSTEP_DATA_PATH"] = lent
        for folder in (Path(word).absolute() for word in lent.split(os.pathsep) if word):
            command += ["--mount", mount(folder, folder, writable=False)] if folder.is_dir() else []
    command += ["--tmpfs", "/tmp"]
    scratch = _scratch(folders[0]) if keeps else None
    if scratch:
        command += ["--mount", mount(scratch, scratch)]
        variables["TMPDIR"] = str(scratch)
    for key, value in variables.items():
        command += ["--env", f"{key}={value}"]
    try:
        return _wait([*command, image, "python", "-m", "lockstep", *words], name, stdout)
    finally:
        if scratch and not any(scratch.iterdir()):
            scratch.rmdir()


def shell(torch: str, watch: Watch) -> int:
    """Run a shell in the develop image, on this working tree; return its exit code."""
    return _develop(torch, watch, ["bash"], [])


def lab(torch: str, port: int, watch: Watch) -> int:
    """Run JupyterLab in the develop image, on this working tree, at a port of this machine only."""
    command = ["invoke", "notebook", "--ip", "0.0.0.0", "--port", str(port)]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ContainerError(
                f"port {port}: already in use, expected a free one; try --port N."
            ) from None
    return _develop(torch, watch, command, ["--publish", f"127.0.0.1:{port}:{port}"])


def _develop(torch: str, watch: Watch, command: Sequence[str], options: Sequence[str]) -> int:
    """Run a command in the develop image as this tree's owner; return its exit code."""
    image = build("develop", torch, watch)
    # A volume instead of the host's .venv; it begins as a copy of the image's.
    volume = f"type=volume,source=lockstep-venv-{torch}-{digest_of(environment.LOCK)[:8]}"
    name = f"lockstep-{uuid.uuid4().hex[:12]}"
    words = ["docker", "run", "--rm", "--init", "--name", name, "--user", _user(ROOT)]
    words += ["--mount", mount(ROOT, INSIDE), "--mount", f"{volume},target={INSIDE / '.venv'}"]
    words += ["--shm-size", "1g", "--env", "HOME=/tmp", "--sig-proxy=false", *options]
    words += ["--interactive", *(["--tty"] if sys.stdin.isatty() else [])]
    return _wait([*words, image, *command], name, None)


def push(repository: str, stage: str, torch: str, watch: Watch) -> str:
    """Build an image of a clean commit and push it; return its name with the digest.

    ``repository`` has no tag: ``registry.example.com/team/lockstep``.
    """
    commit = environment.git()
    if commit["commit"] is None or commit["dirty"]:
        raise ContainerError(
            "image push: the working tree has changes that are not committed; commit them first."
        )
    image = build(stage, torch, watch)
    name = f"{repository}:{stage}-{torch}-{commit['commit'][:12]}"
    _docker("tag", image, name)
    watch.doing(f"pushing {name}")
    try:
        said = _docker("push", name)
    finally:
        watch.end()
    digest = re.search(r"digest: (sha256:\w{64})", said)
    return f"{repository}@{digest[1]}" if digest else name


def update_base(watch: Watch) -> tuple[str, str]:
    """Pin the base image to its tag's newest digest; return the digests before and after."""
    refuse_without_engine()
    text = DOCKERFILE.read_text()
    found = re.search(r"^FROM \$\{BASE_IMAGE:-(\S+)@(sha256:\w{64})\}", text, re.MULTILINE)
    if not found:
        raise ContainerError(
            f"{DOCKERFILE}: found no base image with a digest in its first FROM line."
        )
    name, before = found.groups()
    watch.doing(f"asking for {name}")
    try:
        _docker("pull", "--quiet", name)
    finally:
        watch.end()
    repository = name.rpartition(":")[0]
    listed = _docker("image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', name)
    after = next(
        (line.rpartition("@")[2] for line in listed.split() if line.startswith(f"{repository}@")),
        before,
    )
    write_atomically(DOCKERFILE, text.replace(before, after).encode())
    return before, after


def refuse_without_engine() -> None:
    """Raise ContainerError unless a Docker engine answers."""
    try:
        asked = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True
        )
    except OSError:
        raise ContainerError(
            "docker: not found on PATH, needed for the images; install Docker 20.10 or later, "
            "or train without --in."
        ) from None
    if asked.returncode == 0:
        return
    if "permission denied" in asked.stderr.lower():
        raise ContainerError(
            "docker: this user may not use the engine's socket; add the user to the group docker "
            "(sudo usermod -aG docker $USER) and log in again."
        )
    where = os.environ.get("DOCKER_HOST", "its usual socket")
    raise ContainerError(
        f"docker: no engine answers at {where}; start it (sudo systemctl start docker, or Docker "
        "Desktop), then run the command again."
    )


def _refuse_without_gpu(image: str) -> None:
    """Raise ContainerError unless containers get a GPU here."""
    command = ["docker", "run", "--rm", "--gpus", "all", image, "nvidia-smi", "--list-gpus"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        raise ContainerError(
            f"GPU: the engine gives containers none ({last_line(asked.stderr)}); install the "
            "driver and the NVIDIA container toolkit, or use --in cpu."
        )


def remove_containers(label: str) -> None:
    """Stop and remove the containers with a label, and the volumes that they mounted."""
    template = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}'
    for name in _docker("ps", "--all", "--quiet", "--filter", f"label={label}").split():
        volumes = _docker("inspect", "--format", template, name).split()
        _docker("rm", "--force", name)
        if volumes:
            _docker("volume", "rm", *volumes)


def mount(source: Path, target: Path, writable: bool = True) -> str:
    """Return the value of ``--mount`` for a folder of this machine, with any name."""
    line = io.StringIO()
    words = ["type=bind", f"source={source}", f"target={target}"]
    csv.writer(line, lineterminator="").writerow(words + ([] if writable else ["readonly"]))
    return line.getvalue()


def _user(folder: Path) -> str:
    """Return uid:gid for the container: the caller's, or for root those of a folder's owner.

    So ``sudo`` leaves no files of root in a user's folder. Where Docker runs rootless, its root is
    the user.
    """
    if "rootless" in _docker("info", "--format", "{{.SecurityOptions}}"):
        return "0:0"
    if os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    owner = folder.stat()
    return f"{owner.st_uid}:{owner.st_gid}"


def _scratch(folder: Path) -> Path:
    """Make a temporary folder that has the owner of another folder."""
    made, owner = Path(tempfile.mkdtemp(prefix="lockstep-")), folder.stat()
    if os.getuid() == 0:
        os.chown(made, owner.st_uid, owner.st_gid)
    return made


def _wait(command: Sequence[str], name: str, stdout: int | None) -> int:
    """Run a container to its end and return its exit code; signals are passed on to it."""

    def hand_on(number: int, _: object) -> None:
        subprocess.run(["docker", "kill", "--signal", str(number), name], capture_output=True)

    # A session of its own, so that Ctrl-C reaches the container once, through us.
    child = subprocess.Popen(command, stdout=stdout, start_new_session=not sys.stdin.isatty())
    handed = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, hand_on) for number in handed]
    code = child.wait()
    for number, handler in zip(handed, before, strict=True):
        signal.signal(number, handler)
    return code


def _id(image: str) -> str:
    return _docker("image", "inspect", "--format", "{{.Id}}", image).strip()


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    if done.returncode:
        raise ContainerError(f"docker {shlex.join(words[:2])}: {last_line(done.stderr)}")
    return done.stdout


def last_line(said: str) -> str:
    """Return the last line of a failed command's output."""
    return (said.strip().splitlines() or ["no output"])[-1][:300]
