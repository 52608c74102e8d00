"""Checks before a commit that no tool of the lock makes: ``hooks.py CHECK FILE ...``.

``hooks.py install`` has git run all checks of .pre-commit-config.yaml before each commit.
"""

import subprocess
import sys
from pathlib import Path

LARGEST = 1 << 20  # bytes; what is larger belongs into the data store
KERNEL = {"display_name": "Lockstep", "language": "python", "name": "python3"}


# Host and dev container share one .git, and each has a .venv of its own at the same place. So the
# hook names no environment, as that of `pre-commit install` does, and one that is missing or of
# another machine blocks no commit.
HOOK = """\
#!/bin/sh
# Lockstep's checks, by the environment of who commits.
cd "$(git rev-parse --show-toplevel)" || exit 0
[ -f .pre-commit-config.yaml ] || exit 0
if ! .venv/bin/pre-commit --version >/dev/null 2>&1; then
    echo "commit: not checked: .venv has no environment for this machine; run ./workbench" >&2
    exit 0
fi
exec .venv/bin/pre-commit run
"""


def install(_: list[str]) -> int:
    """Write the hook; 1 if there is one of somebody else."""
    command = ["git", "rev-parse", "--git-path", "hooks/pre-commit"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    there = path.read_text() if path.exists() else ""
    if there and "Lockstep's checks" not in there and "pre-commit.com" not in there:
        print(f"{path}: is a hook of your own; add to it: .venv/bin/pre-commit run")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HOOK)
    path.chmod(0o755)
    return 0


def large_files(names: list[str]) -> int:
    """Refuse files over 1 MiB; 1 if there is one."""
    large = [name for name in names if Path(name).stat().st_size > LARGEST]
    for name in large:
        size = Path(name).stat().st_size / LARGEST
        print(f"{name}: {size:.1f} MiB, expected at most 1; keep it as data, by its digest.")
    return 1 if large else 0


def merged(names: list[str]) -> int:
    """Refuse files in which a merge was left half done; 1 if there is one."""
    edges = tuple(bytes([edge]) * 7 + b" " for edge in b"<>")
    found = 0
    for name in names:
        for number, line in enumerate(Path(name).read_bytes().splitlines(), 1):
            if line.startswith(edges):
                print(f"{name}:{number}: is a mark of a merge; choose one side, or both.")
                found = 1
    return found


def notebooks(names: list[str]) -> int:
    """Refuse a notebook that is not, to the byte, what its script makes; 1 if there is one.

    That is, one with other cells, with outputs, counts or metadata, or without its other half.
    """
    refused = []
    for notebook in sorted({Path(name).with_suffix(".ipynb") for name in names}):
        halves = notebook, notebook.with_suffix(".py")
        if missing := [path for path in halves if not path.exists()]:
            refused.append(f"{missing[0]}: is missing; `jupytext --sync` makes it of the other.")
        elif notebook.read_text() != made_of(halves[1]):
            refused.append(
                f"{notebook}: is not what {halves[1].name} makes (other cells, or outputs, counts, "
                "metadata); `invoke format` brings both together, the newer one counts."
            )
    print("\n".join(refused), end="\n" if refused else "")
    return 1 if refused else 0


def write_notebooks(names: list[str]) -> int:
    """Write each notebook as its script makes it; 0."""
    for notebook in map(Path, names):
        if (content := made_of(notebook.with_suffix(".py"))) != notebook.read_text():
            notebook.write_text(content)
    return 0


def made_of(script: Path) -> str:
    """The notebook that a script makes: its cells, numbered, and the kernel."""
    import jupytext
    import nbformat

    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = str(number), {}  # as nbstripout numbers them
    text: str = nbformat.writes(notebook) + "\n"
    return text


CHECKS = {
    "install": install,
    "large-files": large_files,
    "merged": merged,
    "notebooks": notebooks,
    "write-notebooks": write_notebooks,
}

if __name__ == "__main__":
    sys.exit(CHECKS[sys.argv[1]](sys.argv[2:]))
