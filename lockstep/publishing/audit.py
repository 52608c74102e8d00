"""What can be said of everything that is locked: advisories, secrets, parts list, licences."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lockstep.ground import environment
from lockstep.ground.errors import LockstepError
from lockstep.ground.files import write_atomically, write_errors
from lockstep.publishing.needs import cyclonedx

ADVISORIES = "LOCKSTEP_ADVISORIES"
CATEGORIES = {"default": "packages", "develop": "dev-packages"}  # as the Pipfile calls them
# Known to be vulnerable for years: an advisory service that does not say so, knows nothing.
_CANARY = "jinja2==2.4.1"
_NO_HASH = f"--hash=sha256:{'0' * 64}"  # pip-audit wants one, and fetches nothing
# What is a digest, not a secret, in the files whose purpose is to hold digests.
_DIGEST = r'^\s*sha256:\s"?[0-9a-f]{64}"?\s*$'  # a line that names a file, as in a recipe's start
_DIGESTS = re.compile(r"(.*/)?(golden\.json|[\w.-]+\.lock|data/[\w.-]+\.yaml|tests/.*)")


@dataclass(frozen=True)
class Finding:
    """What a check found; ``ok`` only if it could look, and all was well."""

    check: str
    ok: bool
    found: str


def audit(
    output: Path, doing: Callable[[str], None], root: Path = environment.ROOT
) -> list[Finding]:
    """Check a clone's lock and tracked files; ``sbom.json`` and ``licences.json`` go to a folder.

    Nothing passes that could not be checked, such as advisories without a network. Raises
    WriteError if the folder cannot be written.
    """
    with write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    checks: dict[str, Callable[[], Finding]] = {
        "advisories": lambda: _advisories(root),
        "secrets": lambda: _secrets(root),
        "parts list": lambda: _parts(root, output / "sbom.json"),
        "licences": lambda: _licences(output / "licences.json"),
    }
    findings = []
    for name, check in checks.items():
        doing(f"checking {name}")
        try:
            findings.append(check())
        except (LockstepError, OSError, ValueError, KeyError, TypeError) as error:
            findings.append(Finding(name, False, f"not checked: {' '.join(str(error).split())}"))
    return findings


def _advisories(root: Path) -> Finding:
    if not _vulnerable([_CANARY])[1]:
        return Finding(
            "advisories", False, f"not checked: the database does not list {_CANARY} as vulnerable"
        )
    lock = json.loads((root / "Pipfile.lock").read_bytes())
    entries = [pair for name, part in lock.items() if name != "_meta" for pair in part.items()]
    # Advisories name 2.13.0, not its build 2.13.0+cpu.
    versions = {(name, row["version"].lstrip("=").partition("+")[0]) for name, row in entries}
    pins = sorted({f"{environment.normal(name)}=={version}" for name, version in versions})
    audited, vulnerable = _vulnerable(pins)
    if missing := [pin for pin in pins if pin not in audited]:
        skipped = f"not checked: {missing[0]} and {len(missing) - 1} more"
        return Finding("advisories", False, skipped)
    summary = f"{len(pins)} packages, {len(vulnerable)} known to be vulnerable"
    return Finding("advisories", not vulnerable, "; ".join([summary, *vulnerable]))


def _vulnerable(pins: list[str]) -> tuple[set[str], list[str]]:
    """The pins that were looked up, and what is known against them. Raises OSError if it fails."""
    with tempfile.TemporaryDirectory(prefix="lockstep-audit-") as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{pin} {_NO_HASH}\n" for pin in pins))
        words = ["--strict", "--disable-pip", "--require-hashes", "--requirement", str(listed)]
        # Its own cache: an old answer would hide new advisories.
        words += ["--format", "json", "--progress-spinner", "off", "--cache-dir", folder]
        if address := os.environ.get(ADVISORIES):
            words += ["--vulnerability-service", "osv", "--osv-url", address]
        done = _tool("pip-audit", *words)
    try:
        rows = json.loads(done.stdout)["dependencies"]
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise OSError(f"no advisories could be reached, {last[:200]}") from error
    looked_up = {f"{row['name']}=={row['version']}" for row in rows if "skip_reason" not in row}
    known = [
        f"{row['name']} {row['version']}: {', '.join(one['id'] for one in row['vulns'])}"
        for row in rows
        if row.get("vulns")
    ]
    if done.returncode != bool(known):
        raise OSError(f"pip-audit ended with {done.returncode} and {len(known)} findings")
    return looked_up, known


def _secrets(root: Path) -> Finding:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if (root / name).is_file()]
    if listed.returncode or not names:
        return Finding("secrets", False, "not checked: git lists no files here")
    done = _tool(
        "detect-secrets", "scan", "--no-verify", "--exclude-lines", _DIGEST, *names, cwd=root
    )
    if done.returncode:
        raise OSError(f"detect-secrets failed ({done.stderr.strip()[-200:]})")
    places = [
        f"{name}:{one['line_number']} ({one['type']})"
        for name, secrets in json.loads(done.stdout)["results"].items()
        for one in secrets
        if not (one["type"] == "Hex High Entropy String" and _DIGESTS.fullmatch(name))
    ]
    summary = f"{len(names)} tracked files, {len(places)} with what looks like a secret"
    return Finding("secrets", not places, "; ".join([summary, *places]))


def _parts(root: Path, path: Path) -> Finding:
    lock = json.loads((root / "Pipfile.lock").read_bytes())
    categories = [CATEGORIES.get(name, name) for name in lock if name != "_meta"]
    content = cyclonedx(root, ",".join(sorted(categories)))
    write_atomically(path, content)
    return Finding("parts list", True, f"{len(json.loads(content)['components'])} parts in {path}")


def _licences(path: Path) -> Finding:
    done = _tool("pip-licenses", "--format", "json", "--with-urls", "--from", "mixed")
    if done.returncode:
        raise OSError(f"pip-licenses failed ({done.stderr.strip()[-200:]})")
    rows = json.loads(done.stdout)
    write_atomically(path, done.stdout.encode())
    kinds = Counter(row["License"] for row in rows)
    unknown = [row["Name"] for row in rows if row["License"] == "UNKNOWN"]
    summary = f"{len(rows)} installed packages, {len(kinds)} licences, in {path}"
    summary += f"; {', '.join(unknown)} name none" if unknown else ""
    return Finding("licences", True, summary)  # which of them will do, is for people to say


def _tool(name: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A locked tool, run to its end. Raises OSError if it is not there."""
    path = Path(sys.executable).with_name(name)
    return subprocess.run([str(path), *words], cwd=cwd, capture_output=True, text=True)
