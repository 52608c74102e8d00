"""Reads Pipfile.lock: its packages, as requirements, and the digest of its Pipfile; stdlib only."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from process import ROOT, SetUpError

NAMES = {"packages": "default", "dev-packages": "develop"}  # Pipfile.lock's own words


def parsed(text: str) -> dict[str, Any]:
    """Parse a lock. Raises SetUpError if it is not JSON."""
    try:
        lock: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise SetUpError(
            f"{ROOT / 'Pipfile.lock'}: found {error}, expected JSON;"
            " after a merge: git checkout Pipfile.lock, then invoke lock"
        ) from error
    return lock


def entries(lock: dict[str, Any], categories: Sequence[str]) -> dict[str, Any]:
    """The locked packages of several categories of the Pipfile, by name."""
    merged: dict[str, Any] = {}
    for category in categories:
        merged |= lock.get(NAMES.get(category, category), {})
    return dict(sorted(merged.items()))


def export(lock: dict[str, Any], categories: Sequence[str]) -> str:
    """Requirements with hashes; with three equals signs, as 2.13.0+cpu satisfies ==2.13.0."""
    lines = []
    for name, entry in entries(lock, categories).items():
        marker = f" ; {entry['markers']}" if "markers" in entry else ""
        hashes = [f"    --hash={digest}" for digest in entry["hashes"]]
        version = entry["version"].lstrip("=")
        lines.append(" \\\n".join([f"{name}==={version}{marker}", *hashes]))
    return "\n".join([*lines, ""])


def pipfile_digest(pipfile: str, index: str) -> str:
    """The sha256 that pipenv writes into the lock; a Pipfile that names no source has pip's own."""
    content = tomllib.loads(pipfile)
    sources = content.pop("source", [{"name": "pypi", "url": index, "verify_ssl": True}])
    digested = {"_meta": {"sources": sources, "requires": content.pop("requires", {})}}
    for category in ("packages", "dev-packages", *content):
        if category not in ("scripts", "pipfile", "pipenv"):
            pins = {normal(name): pin for name, pin in content.get(category, {}).items()}
            digested[NAMES.get(category, category)] = pins
    canonical = json.dumps(digested, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
