"""The source that a training process runs: found by following imports, kept in the run."""

import ast
import functools
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from project.errors import RunError
from project.files import canonical_json, digest_of

PACKAGE = Path(__file__).parents[1]


def files_that_run(*modules: str) -> dict[str, bytes]:
    """Path (from the package's parent) to content of each file that the modules import in the end.

    Imports are followed in the text, also those inside functions, so it does not matter what else
    this process has loaded. Those of the package's own ``__init__`` are for its callers, and
    nothing here calls it: its file counts, but not what it loads for them.
    """
    return _reached(modules, _in_package)


def files_of(files: Mapping[str, bytes], *modules: str) -> dict[str, bytes]:
    """The same among files that are given, as ``unpacked`` gives those of a run."""

    def among(module: str) -> tuple[str, bytes] | None:
        place = module.replace(".", "/")
        names = (name for name in (f"{place}.py", f"{place}/__init__.py") if name in files)
        return next(((name, files[name]) for name in names), None)

    return _reached(modules, among)


def _reached(
    modules: tuple[str, ...], find: Callable[[str], tuple[str, bytes] | None]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    queue = list(modules)
    seen = set(queue)
    while queue:
        module = queue.pop()
        there = find(module)
        if there is None:
            continue
        name, content = there
        found[name] = content
        parents = {module.rsplit(".", 1)[0]} if "." in module else set()
        offered = module == PACKAGE.name
        for imported in (parents if offered else _imports(content) | parents) - seen:
            seen.add(imported)
            queue.append(imported)
    return dict(sorted(found.items()))


def _in_package(module: str) -> tuple[str, bytes] | None:
    place = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    path = next((path for path in candidates if path.is_file()), None)
    return (path.relative_to(PACKAGE.parent).as_posix(), path.read_bytes()) if path else None


@functools.cache
def _imports(content: bytes) -> frozenset[str]:
    """Names that may be modules of the package: ``from a import b`` may mean a.b or a."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE.name)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    """Name to digest of each file: the source's part of the identity."""
    return {name: digest_of(content) for name, content in files.items()}


def source_digest(files: dict[str, bytes]) -> str:
    """One digest for all the files and their names."""
    return digest_of(canonical_json(digests(files)))


def data_files(*paths: Path) -> dict[str, bytes]:
    """The same for files that the modules read as data."""
    return {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in paths}


def archive(files: dict[str, bytes]) -> bytes:
    """A zip of the files, the same bytes for the same files.

    Stored, not deflated: what deflating gives depends on the zlib at hand.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            file.writestr(member, content)
    return buffer.getvalue()


def unpacked(path: Path) -> dict[str, bytes]:
    """The files of an archive. Raises RunError if a byte of the zip is not as ``archive`` wrote."""
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            files = {name: file.read(name) for name in file.namelist()}
    except Exception as error:  # whatever an altered head makes of the rest
        raise RunError(f"{path.name}: not readable as an archive ({error})") from error
    if archive(files) != content:
        raise RunError(f"{path.name}: its bytes are not those of its files")
    if bad := [n for n in files if n.startswith("/") or ".." in PurePosixPath(n).parts]:
        raise RunError(f"{path.name}: {bad[0]} would be written outside of the folder")
    return files
