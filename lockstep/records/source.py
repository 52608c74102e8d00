"""The source of a run: found by following imports, digested by what it does, kept in an archive."""

import ast
import functools
import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import RunError, printable
from lockstep.ground.home import ENGINE, Home
from lockstep.ground.names import unsafe
from lockstep.records.reading import content_of

# The root of what makes bits: a run's set-up and training. An edit outside of what it imports, as
# of reports, storage or serving, changes no identity.
MAKING = "lockstep.run.making"
# What the contract page gives models by name, so that settings can be read without torch.
_GIVEN_BY_NAME = {"lockstep.model.pictures": "lockstep.ground.pictures"}
# It says what version the engine is, which decides no bit.
_VERSION = "lockstep/__init__.py"
_LISTED = 4 << 20  # bytes of an archive's list of files; 10,000 have about 1 MB
_NOT_READ = ("__pycache__", "recipes")  # folders of a model that its code does not depend on

Find = Callable[[str], tuple[str, bytes] | None]


def of_making(home: Home, model: str) -> dict[str, bytes]:
    """Path to content of each file that decides the bits of a model's training.

    All files in the model's folder (without recipes and README.md), the modules of the project that
    it imports in the end with the data files beside them, and the engine's making part. Imports are
    followed in the text, also inside functions, so it does not matter what this process has loaded.
    """
    folder = home.folder_of(model)
    found = {name: path.read_bytes() for name, path in _files_in(home, folder, deep=True)}
    roots = [_module_of(name) for name in found if name.endswith(".py")]
    reached = closure(in_tree(home), home.package, *roots, MAKING)
    for part in {home.folder.parent.joinpath(*_below(home, name)).parent for name in reached}:
        if _is_shared(home, part):
            beside = _files_in(home, part, deep=False)
            found |= {name: path.read_bytes() for name, path in beside if path.suffix != ".py"}
    return dict(sorted((found | reached).items()))


def of_verb(home: Home) -> dict[str, bytes]:
    """Path to content of the engine's files that a command needs."""
    return closure(in_tree(home), home.package, "lockstep.__main__")


def closure(find: Find, package: str, *modules: str) -> dict[str, bytes]:
    """Path to content of each file that the modules import in the end, sorted by path.

    ``find`` gives the path and content of a module of the engine or the project, or None. What is
    imported under ``if TYPE_CHECKING`` is not loaded and not followed.
    """
    found: dict[str, bytes] = {}
    queue = list(modules)
    seen = set(queue)
    while queue:
        module = queue.pop()
        there = find(_GIVEN_BY_NAME.get(module, module))
        if there is None:
            continue
        name, content = there
        found[name] = content
        parents = {module.rpartition(".")[0]} - {""}
        tops = {"lockstep", package.partition(".")[0]}
        wanted = {
            one for one in imports(content, _package_of(name)) if one.partition(".")[0] in tops
        }
        if "lockstep.model" in wanted and not any(w.startswith("lockstep.model.") for w in wanted):
            wanted |= set(_GIVEN_BY_NAME)  # the page as a whole: any of its names may be used
        for imported in (wanted | parents) - seen:
            seen.add(imported)
            queue.append(imported)
    return dict(sorted(found.items()))


def in_tree(home: Home) -> Find:
    """Finds modules of the engine and of a home as they lie on this machine."""

    def find(module: str) -> tuple[str, bytes] | None:
        for top, base in (("lockstep", ENGINE.parent), (home.package, _base(home))):
            if module == top or module.startswith(f"{top}."):
                place = base.joinpath(*module.split("."))
                for path in (place.with_suffix(".py"), place / "__init__.py"):
                    if path.is_file():
                        return path.relative_to(base).as_posix(), path.read_bytes()
        return None

    return find


def among(files: Mapping[str, bytes]) -> Find:
    """Finds modules among files that are given, as ``unpacked`` gives those of a run."""

    def find(module: str) -> tuple[str, bytes] | None:
        place = module.replace(".", "/")
        names = (name for name in (f"{place}.py", f"{place}/__init__.py") if name in files)
        return next(((name, files[name]) for name in names), None)

    return find


@functools.cache
def imports(content: bytes, package: str) -> frozenset[str]:
    """Dotted names that a module of a package imports: ``from a import b`` may mean a.b or a.

    Also by ``importlib.import_module("a.b")``, where the name stands there as a text.
    """
    # The engine's own calls load late what decides no bit.
    calls = _top(package.replace(".", "/") + "/") != "lockstep"
    names: set[str] = set()
    for node in _running(ast.parse(content)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = _absolute(node.module or "", node.level, package)
            names |= {parent, *(f"{parent}.{alias.name}" for alias in node.names)}
        elif calls and isinstance(node, ast.Call) and (name := _called_for(node)):
            plain = name.lstrip(".")
            names.add(_absolute(plain, len(name) - len(plain), package))
    return frozenset(names)


def _absolute(name: str, level: int, package: str) -> str:
    """A name that is relative to a package by so many dots, from the top."""
    if not level:
        return name
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*base, *([name] if name else [])])


def _called_for(call: ast.Call) -> str:
    """The module that a call imports, if its name stands there."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    if function not in ("import_module", "__import__") or not call.args:
        return ""
    name = call.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
        else:
            queue += ast.iter_child_nodes(node)


def _base(home: Home) -> Path:
    """The folder from which a home's package is imported."""
    return home.folder.parents[home.package.count(".")]


def _below(home: Home, name: str) -> tuple[str, ...]:
    return Path(name).parts[home.package.count(".") :]


def _is_shared(home: Home, folder: Path) -> bool:
    """Whether a folder is a package of the project that models share."""
    inside = home.folder in folder.parents
    return inside and home.folder / "models" not in (folder, *folder.parents)


def _files_in(home: Home, folder: Path, *, deep: bool) -> Iterator[tuple[str, Path]]:
    base = _base(home)
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part[0] == "." or part in _NOT_READ for part in parts)
        if path.is_file() and not hidden and path.name != "README.md":
            yield path.relative_to(base).as_posix(), path


def _package_of(name: str) -> str:
    """The package in which the module of a path stands, from which its relative imports count."""
    module = _module_of(name)
    return module if name.endswith("/__init__.py") else module.rpartition(".")[0]


def _module_of(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Path to digest of each file by what it does: the source's part of the identity."""
    plain = {name: code for name, code in files.items() if not name.endswith(".py")}
    trees = {name: _parsed(name, code) for name, code in files.items() if name not in plain}
    trees.pop(_VERSION, None)
    caught = {top for name, tree in trees.items() if _binds(tree) for top in [_top(name)]}
    found = {name: digest_of(_with_lf(code)) for name, code in plain.items()}
    for name, tree in trees.items():
        # Our own code never decides by the text of an error; a team's may.
        messages = _top(name) != "lockstep" and _top(name) in caught
        found[name] = digest_of(_essence(tree, messages=messages).encode())
    return dict(sorted(found.items()))


def _with_lf(content: bytes) -> bytes:
    """A text with LF lines, as git may have made CRLF of them; what is no text as it is."""
    if b"\0" in content:
        return content
    try:
        content.decode()
    except UnicodeDecodeError:
        return content
    return content.replace(b"\r\n", b"\n")


def _top(name: str) -> str:
    examples = "lockstep/examples/"
    return examples if name.startswith(examples) else name.partition("/")[0]


def _parsed(name: str, content: bytes) -> ast.Module:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise RunError(f"{name}: not readable as Python ({error}); correct it.") from error


def _binds(tree: ast.Module) -> bool:
    """Whether some handler looks at the exception that it caught."""
    return any(isinstance(node, ast.ExceptHandler) and node.name for node in ast.walk(tree))


def essence(content: bytes, *, messages: bool = False) -> str:
    """A module's source by what it does: without comments, blank lines, docstrings, error texts.

    ``messages`` keeps the texts of errors. Docstrings stay where a module reads ``__doc__``.
    """
    return _essence(_parsed("source", content), messages=messages)


def _essence(tree: ast.Module, *, messages: bool) -> str:
    nodes = list(ast.walk(tree))
    documented = any(
        isinstance(n, ast.Name | ast.Attribute) and "__doc__" in _name(n) for n in nodes
    )
    for node in nodes:
        if not documented and isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            node.body = (node.body[1:] or [ast.Pass()]) if has_docstring else node.body
        if messages:
            continue
        if isinstance(node, ast.Assert):
            node.msg = None
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = [_wordless(one) for one in node.exc.args]
    return ast.unparse(ast.fix_missing_locations(tree))


def _name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def _wordless(argument: ast.expr) -> ast.expr:
    """A text in place of any text, whatever it says."""
    text = isinstance(argument, ast.JoinedStr) or (
        isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )
    return ast.Constant("") if text else argument


def raw_digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Path to digest of each file by its bytes, as identities of schema 1 have it."""
    return {name: digest_of(content) for name, content in files.items()}


def source_digest(files: Mapping[str, bytes]) -> str:
    """One digest for all the files and their names."""
    return digest_of(canonical_json(digests(files)))


def data_files(home: Home, *paths: Path) -> dict[str, bytes]:
    """Path to content of files of the engine or of a home that modules read as data."""
    bases = _base(home), ENGINE.parent
    inside = [(path, next(base for base in bases if base in path.parents)) for path in paths]
    return {path.relative_to(base).as_posix(): path.read_bytes() for path, base in inside}


def third_party(files: Mapping[str, bytes], package: str) -> set[str]:
    """Dotted names outside of engine and project that the files import."""
    found: set[str] = set()
    for name, content in files.items():
        if name.endswith(".py"):
            found |= imports(content, _package_of(name))
    tops = {"lockstep", package.partition(".")[0], "", *sys.stdlib_module_names}
    return {name for name in found if name.partition(".")[0] not in tops}


def archive(files: Mapping[str, bytes]) -> bytes:
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
    """The files of an archive, none of which leads out of a folder, or into git's.

    Raises RunError if a byte of the zip is not as ``archive`` wrote it; no more memory is taken for
    that than the file has bytes.
    """
    try:
        content = content_of(path)
        _refuse_many(path, content)
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = file.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > len(content):
                raise RunError(f"{path.name}: found compressed files, expected them as they are")
            files = {member.filename: file.read(member) for member in members}
    except RunError:
        raise
    except Exception as error:  # whatever an altered head makes of the rest
        raise RunError(f"{path.name}: not readable as an archive ({error})") from error
    if archive(files) != content:
        raise RunError(f"{path.name}: its bytes are not those of its files")
    for name in files:
        if why := unsafe(name):
            raise RunError(f"{path.name}: {printable(name)} {why}")
        if above := [str(up) for up in PurePosixPath(name).parents if str(up) in files]:
            raise RunError(f"{path.name}: {printable(above[0])} is a file and a folder")
    return files


def _refuse_many(path: Path, content: bytes) -> None:
    """Raise RunError for an archive whose list of files takes long to read."""
    end, zip64 = content[-22:], content[-42:-38] == b"PK\x06\x07"
    if zip64 or int.from_bytes(end[12:16], "little") > _LISTED:
        raise RunError(f"{path.name}: found more files than the source of a run has")
