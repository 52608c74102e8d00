"""Removes what an image can do without: the end of `bootstrap.py --image`, stdlib only."""

from pathlib import Path

from process import remove, write_atomically

# Patterns below site-packages that training never reads, and why. Each saves more than 2 MB.
NOT_READ = {
    "torch/test": "torch's own tests, compiled ones among them",
    "torch/bin/*[Tt]est*": "the same, as programs; torch_shm_manager beside them is needed",
    "torch/bin/protoc*": "the compiler of ONNX's message formats",
    "torch/include": "C++ headers, to build extensions and what torch.compile generates",
    "**/*.a": "static libraries, to link programs with; CUDA's profiler has 77 MB of them",
    "*/**/tests": "tests of NumPy, SciPy, scikit-learn, Matplotlib, SymPy, NetworkX ...",
}

# Compiles all that compiles: one of torch's files is in the syntax of a newer Python.
COMPILE = """
import compileall, py_compile, sys
hashed = py_compile.PycInvalidationMode.UNCHECKED_HASH
compileall.compile_dir(sys.argv[1], quiet=2, workers=0, invalidation_mode=hashed)
"""


def lighten(site: Path) -> int:
    """Remove what training never reads; return how many bytes that freed."""
    freed = 0
    for pattern in NOT_READ:
        for path in sorted(site.glob(pattern)):
            freed += _size(path)
            remove(path)
    return freed


def remove_times(site: Path) -> None:
    """Remove uv's notes of when a wheel's file was last changed, which differ in each build."""
    for note in sorted(site.glob("*.dist-info/uv_cache.json")):
        record = note.with_name("RECORD")
        lines = record.read_text().splitlines(keepends=True)
        name = f"{note.parent.name}/{note.name},"
        write_atomically(record, "".join(x for x in lines if not x.startswith(name)))
        note.unlink()


def _size(path: Path) -> int:
    below = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in below if each.is_file() and not each.is_symlink())
