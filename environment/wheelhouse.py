"""One archive of all locked wheels: `invoke wheelhouse` makes it, bootstrap.py installs from it."""

import argparse
import contextlib
import hashlib
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import process
from installers import PIP, pip_variables, tool_pins, tools_python, torch_addresses
from lockfile import entries, export, normal, parsed
from process import ROOT, VENV, SetUpError, remove, run, say

FOLDER = ROOT / "wheelhouse"
UNPACKED = VENV / "wheelhouse"  # wheels, while they are installed without a network
SUMS = "SHA256SUMS"  # the archive's first member, in the format of sha256sum
NEXT = "copy it again, or remove it and run `invoke wheelhouse` where there is a network"


class Pin(NamedTuple):
    """A locked package, or one of those that install."""

    name: str
    version: str
    hashes: set[str]
    everywhere: bool  # on each platform


def main() -> int:
    parser = argparse.ArgumentParser(prog="invoke wheelhouse", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="torch with CUDA, not the CPU build")
    torch = "gpu" if parser.parse_args().gpu else "cpu"
    try:
        process.wait_for_others()
        print(archive_of(torch))
    except SetUpError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error.filename or FOLDER}: {error.strerror}; correct that, then try again")
        return 2
    except KeyboardInterrupt:
        say("interrupted; nothing was made")
        return 130
    return 0


def archive_of(torch: str) -> str:
    """Make the archive of the lock and a kind of torch, or verify the existing one."""
    lock = parsed((ROOT / "Pipfile.lock").read_text())
    categories = ("packages", "dev-packages", torch)
    pins = pins_of(lock, categories)
    archive = FOLDER / name_of(torch)
    shown = archive.relative_to(ROOT)
    if archive.exists():
        say(f"verifying {shown}")
        sums = unpack(archive, None, set())
        check(str(archive), sums, pins)
        return f"{shown}: exists, and its {len(sums)} wheels are as {SUMS} and the lock say"
    making = FOLDER / ".making"
    remove(making)  # of a call that was killed
    making.mkdir(parents=True)
    try:
        download(lock, categories, making)
        sums = sums_of(making)
        check("the package index", sums, pins)
        say(f"writing {shown}")
        pack(making, sums, archive)
    finally:
        remove(making)
    return f"{shown}: made, {len(sums)} wheels, {archive.stat().st_size / 1e6:.0f} MB"


def name_of(torch: str) -> str:
    lock = (ROOT / "Pipfile.lock").read_bytes()
    return f"lockstep-{torch}-{hashlib.sha256(lock).hexdigest()[:8]}.tar"


def pins_of(lock: dict[str, Any], categories: Sequence[str]) -> list[Pin]:
    """The packages that an installation of these categories needs, and its installers."""
    pins = []
    for name, entry in entries(lock, categories).items():
        hashes = {digest.removeprefix("sha256:") for digest in entry["hashes"]}
        marker = entry.get("markers", "")
        if sys.platform == "linux":  # so what is for Linux is needed here
            marker = re.sub(r"sys_platform == 'linux'|platform_system == 'Linux'", "", marker)
        everywhere = "platform" not in marker and "os_name" not in marker
        pins.append(Pin(name, entry["version"].lstrip("="), hashes, everywhere))
    for pin in tool_pins():
        name, _, version = pin.split(maxsplit=1)[0].partition("==")
        pins.append(Pin(name, version, set(re.findall(r"sha256:(\w+)", pin)), True))
    return pins


def download(lock: dict[str, Any], categories: Sequence[str], folder: Path) -> None:
    """Download every wheel for this platform with pip, which checks the hashes as well."""
    # The installers apart, as they may need other versions of packages that the lock has too.
    sets = {
        "the locked wheels": export(lock, categories),
        "the installers": "\n".join(tool_pins()),
    }
    tools_python()
    torch = entries(lock, categories).get("torch", {})
    links = [word for link in torch_addresses(torch) for word in ("--find-links", link)]
    how: list[str | Path] = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    how += ["--dest", folder, *links]
    for number, (what, pins) in enumerate(sets.items()):
        requirements = folder / f"{number}.txt"
        requirements.write_text(pins)
        run(f"downloading {what}", [*PIP, "download", *how, "-r", requirements], **pip_variables())


def sums_of(folder: Path) -> dict[str, str]:
    """Name and sha256 of each wheel of a folder."""
    return {path.name: digest_of(path) for path in sorted(folder.glob("*.whl"))}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(source: str, sums: dict[str, str], pins: Sequence[Pin]) -> None:
    """Raise SetUpError unless each pin has a wheel; one for other platforms only may be missing."""
    digests = set(sums.values())
    for pin in pins:
        if pin.hashes & digests:
            continue
        for name in sums:
            project, version = name.split("-")[:2]
            if (normal(project), version) == (normal(pin.name), pin.version):
                raise SetUpError(
                    f"{source}: {name}: found another sha256 than in Pipfile.lock; {NEXT}"
                )
        if pin.everywhere:
            raise SetUpError(
                f"{source}: no wheel of {pin.name}=={pin.version} found, expected one for each"
                f" package of Pipfile.lock and environment/bootstrap.txt; {NEXT}"
            )


def pack(folder: Path, sums: dict[str, str], archive: Path) -> None:
    """Write the archive; the same wheels give the same bytes."""
    aside = archive.with_name(archive.name + ".new")
    listed = "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()
    with aside.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(member(SUMS, len(listed)), BytesIO(listed))
            for name in sums:
                with (folder / name).open("rb") as wheel:
                    tar.addfile(member(name, (folder / name).stat().st_size), wheel)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(archive)


def member(name: str, size: int) -> tarfile.TarInfo:
    """A plain file without owner or time."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def unpack(archive: Path, folder: Path | None, digests: set[str]) -> dict[str, str]:
    """Verify an archive against its SHA256SUMS and return these; keep wheels of these digests."""
    try:
        with tarfile.open(archive, "r:") as tar:
            first = tar.next()
            listed = tar.extractfile(first) if first and first.name == SUMS else None
            if listed is None:
                raise SetUpError(f"{archive}: {SUMS} not found as its first member; {NEXT}")
            lines = listed.read().decode().splitlines()
            sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
            missing = dict(sums)
            while wheel := tar.next():
                content = tar.extractfile(wheel)
                if content is None or "/" in wheel.name or missing.pop(wheel.name, None) is None:
                    raise SetUpError(f"{archive}: {wheel.name}: not listed in {SUMS}; {NEXT}")
                kept = folder / wheel.name if folder and sums[wheel.name] in digests else None
                if copy(content, kept) != sums[wheel.name]:
                    raise SetUpError(
                        f"{archive}: {wheel.name}: found another sha256 than in {SUMS}; {NEXT}"
                    )
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise SetUpError(f"{archive}: not readable as an archive ({error}); {NEXT}") from error
    if missing:
        raise SetUpError(f"{archive}: {min(missing)}: listed in {SUMS}, but not found; {NEXT}")
    return sums


def copy(content: Any, path: Path | None) -> str:
    """Return the sha256 of an open file, and write it to the path, if there is one."""
    digest = hashlib.sha256()
    with path.open("wb") if path else contextlib.nullcontext() as file:
        while block := content.read(1 << 20):
            digest.update(block)
            if file:
                file.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def installing(lock: dict[str, Any], categories: Sequence[str]) -> Iterator[None]:
    """Let the installers use the wheelhouse alone, checked, if there is one for this lock."""
    source = chosen(categories[-1])
    remove(UNPACKED)  # of a call that was killed
    if source is None:
        yield
        return
    say(f"installing from {source} alone")
    pins = pins_of(lock, categories)
    try:
        (UNPACKED / "wheels").mkdir(parents=True)
        if source.is_dir():
            check(str(source), sums_of(source), pins)
            use_only(source)
        else:
            digests = {digest for pin in pins for digest in pin.hashes}
            check(str(source), unpack(source, UNPACKED / "wheels", digests), pins)
            use_only(UNPACKED / "wheels")
        yield
    finally:
        remove(UNPACKED)


def chosen(torch: str) -> Path | None:
    """Return what LOCKSTEP_WHEELHOUSE names, else the repository's archive for this very lock."""
    if named := os.environ.get("LOCKSTEP_WHEELHOUSE"):
        source = ROOT / Path(named).expanduser()
        if not source.exists():
            raise SetUpError(
                f"LOCKSTEP_WHEELHOUSE: {source} not found, expected an archive of `invoke"
                " wheelhouse` or a folder of wheels; correct or unset it"
            )
        return source
    archive = FOLDER / name_of(torch)
    return archive if archive.exists() else None


def use_only(wheels: Path) -> None:
    """Set the variables of pip, pipenv and uv so that they search this folder and nothing else."""
    for name in list(os.environ):
        if name.startswith("PIP_") or (name.startswith("UV_") and re.search("INDEX|LINKS", name)):
            del os.environ[name]
    os.environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels.resolve().as_uri(),  # pip splits a plain path at its spaces
        "PIP_NO_CACHE_DIR": "1",
        "UV_OFFLINE": "1",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(UNPACKED / "cache"),  # goes with the wheels
    }


if __name__ == "__main__":
    sys.exit(main())
