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

import bootstrap
from bootstrap import UNPACKED, SetUpError

FOLDER = bootstrap.ROOT / "wheelhouse"
SUMS = "SHA256SUMS"  # the archive's first member, in the format of sha256sum
ANEW = "copy it again, or remove it and `invoke wheelhouse` where there is a network"


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
        bootstrap.wait_for_others()
        print(archive_of(torch))
    except SetUpError as error:
        bootstrap.say(str(error))
        return 2
    except OSError as error:
        bootstrap.say(f"{error.filename or FOLDER}: {error.strerror}; cure that, then try again")
        return 2
    except KeyboardInterrupt:
        bootstrap.say("interrupted; nothing was made")
        return 130
    return 0


def archive_of(torch: str) -> str:
    """Make the archive of the lock and a kind of torch, or verify the one that is there."""
    lock = bootstrap.parsed((bootstrap.ROOT / "Pipfile.lock").read_text())
    categories = ("packages", "dev-packages", torch)
    pins = pins_of(lock, categories)
    archive = FOLDER / name_of(torch)
    shown = archive.relative_to(bootstrap.ROOT)
    if archive.exists():
        bootstrap.say(f"verifying {shown}")
        sums = unpack(archive, None, set())
        check(str(archive), sums, pins)
        return f"{shown}: was there, and its {len(sums)} wheels are as {SUMS} and the lock say"
    making = FOLDER / ".making"
    bootstrap.remove(making)  # of a call that was killed
    making.mkdir(parents=True)
    try:
        download(lock, categories, making)
        sums = sums_of(making)
        check("what the package index gave", sums, pins)
        bootstrap.say(f"writing {shown}")
        pack(making, sums, archive)
    finally:
        bootstrap.remove(making)
    return f"{shown}: made, {len(sums)} wheels, {archive.stat().st_size / 1e6:.0f} MB"


def name_of(torch: str) -> str:
    lock = (bootstrap.ROOT / "Pipfile.lock").read_bytes()
    return f"lockstep-{torch}-{hashlib.sha256(lock).hexdigest()[:8]}.tar"


def pins_of(lock: dict[str, Any], categories: Sequence[str]) -> list[Pin]:
    """What an installation of these categories needs, its installers included."""
    pins = []
    for name, entry in bootstrap.entries(lock, categories).items():
        hashes = {digest.removeprefix("sha256:") for digest in entry["hashes"]}
        marker = entry.get("markers", "")
        everywhere = "platform" not in marker and "os_name" not in marker
        pins.append(Pin(name, entry["version"].lstrip("="), hashes, everywhere))
    for pin in bootstrap.tool_pins():
        name, _, version = pin.split(maxsplit=1)[0].partition("==")
        pins.append(Pin(name, version, set(re.findall(r"sha256:(\w+)", pin)), True))
    return pins


def download(lock: dict[str, Any], categories: Sequence[str], folder: Path) -> None:
    """Every wheel for this platform, by pip; it checks the hashes as well."""
    # The tools apart, as they may have other versions of what the lock has too.
    sets = {
        "the locked wheels": bootstrap.export(lock, categories),
        "the installers": "\n".join(bootstrap.tool_pins()),
    }
    bootstrap.tools_python()
    torch = bootstrap.entries(lock, categories).get("torch", {})
    links = [word for link in bootstrap.torch_addresses(torch) for word in ("--find-links", link)]
    how = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), *links)
    for number, (what, pins) in enumerate(sets.items()):
        requirements = folder / f"{number}.txt"
        requirements.write_text(pins)
        command = (*bootstrap.TOOLS_PIP, "download", *how, "-r", requirements)
        bootstrap.run(f"downloading {what}", command)


def sums_of(folder: Path) -> dict[str, str]:
    """Name and sha256 of each wheel of a folder."""
    return {path.name: digest_of(path) for path in sorted(folder.glob("*.whl"))}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(source: str, sums: dict[str, str], pins: Sequence[Pin]) -> None:
    """Each pin has a wheel with one of its hashes; what is for other platforms only may lack."""
    digests = set(sums.values())
    for pin in pins:
        if pin.hashes & digests:
            continue
        for name in sums:
            project, version = name.split("-")[:2]
            if (bootstrap.normal(project), version) == (bootstrap.normal(pin.name), pin.version):
                raise SetUpError(
                    f"{source}: {name}: found another file than the one whose sha256 Pipfile.lock"
                    f" wants; {ANEW}"
                )
        if pin.everywhere:
            raise SetUpError(
                f"{source}: found no wheel of {pin.name}=={pin.version}, wanted one for each"
                f" package of Pipfile.lock and environment/bootstrap.txt; {ANEW}"
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
    """A plain file of nobody and no time."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def unpack(archive: Path, folder: Path | None, wanted: set[str]) -> dict[str, str]:
    """Verify an archive against its SHA256SUMS, which are returned; keep the wanted wheels."""
    try:
        with tarfile.open(archive, "r:") as tar:
            first = tar.next()
            listed = tar.extractfile(first) if first and first.name == SUMS else None
            if listed is None:
                raise SetUpError(f"{archive}: found no {SUMS} as its first member; {ANEW}")
            lines = (line.split("  ") for line in listed.read().decode().splitlines())
            sums = {name: digest for digest, name in lines}
            missing = dict(sums)
            while found := tar.next():
                content = tar.extractfile(found)
                if content is None or "/" in found.name or missing.pop(found.name, None) is None:
                    raise SetUpError(f"{archive}: {found.name}: {SUMS} does not name it; {ANEW}")
                kept = folder / found.name if folder and sums[found.name] in wanted else None
                if copy(content, kept) != sums[found.name]:
                    raise SetUpError(
                        f"{archive}: {found.name}: found another content than {SUMS} says; {ANEW}"
                    )
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise SetUpError(f"{archive}: found a damaged archive ({error}); {ANEW}") from error
    if missing:
        raise SetUpError(f"{archive}: {min(missing)}: {SUMS} names it, it is not there; {ANEW}")
    return sums


def copy(content: Any, path: Path | None) -> str:
    """The sha256 of an open file, which is written to a path as well, if there is one."""
    digest = hashlib.sha256()
    with path.open("wb") if path else contextlib.nullcontext() as file:
        while block := content.read(1 << 20):
            digest.update(block)
            if file:
                file.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def installing(lock: dict[str, Any], categories: Sequence[str]) -> Iterator[None]:
    """Lead the installers to the wheelhouse alone, checked, if there is one for this lock."""
    source = chosen(categories[-1])
    bootstrap.remove(UNPACKED)  # of a call that was killed
    if source is None:
        yield
        return
    bootstrap.say(f"installing from {source} alone")
    pins = pins_of(lock, categories)
    try:
        (UNPACKED / "wheels").mkdir(parents=True)
        if source.is_dir():
            check(str(source), sums_of(source), pins)
            lead_to(source)
        else:
            wanted = {digest for pin in pins for digest in pin.hashes}
            check(str(source), unpack(source, UNPACKED / "wheels", wanted), pins)
            lead_to(UNPACKED / "wheels")
        yield
    finally:
        bootstrap.remove(UNPACKED)


def chosen(torch: str) -> Path | None:
    """What LOCKSTEP_WHEELHOUSE names, else the archive in the repository for this very lock."""
    if named := os.environ.get("LOCKSTEP_WHEELHOUSE"):
        source = bootstrap.ROOT / Path(named).expanduser()
        if not source.exists():
            raise SetUpError(
                f"LOCKSTEP_WHEELHOUSE: found nothing at {source}, wanted an archive of `invoke"
                " wheelhouse` or a folder of wheels; set it so or unset it"
            )
        return source
    archive = FOLDER / name_of(torch)
    return archive if archive.exists() else None


def lead_to(wheels: Path) -> None:
    """Set what pip, pipenv and uv read, so that they look into this folder and nowhere else."""
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
