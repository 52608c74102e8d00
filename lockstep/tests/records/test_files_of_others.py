"""Runs and bundles that others made to do harm: refused in a line, with nothing written or run."""

import base64
import io
import json
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from lockstep.answers import golden
from lockstep.bundles import archive
from lockstep.ground import console, yaml_text
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import BundleError, LockstepError, ModelError, RunError
from lockstep.ground.names import unsafe
from lockstep.ground.tensors import tensors
from lockstep.records import source
from lockstep.records.checkout import checkout
from lockstep.records.identity import identity
from lockstep.records.provenance import code_of
from lockstep.records.receipt import DIGESTED
from lockstep.records.run import Run
from lockstep.records.script import Script
from lockstep.records.verify import verify
from lockstep.tests.conftest import Call

UNSAFE = [
    "/etc/cron.d/x",
    "../x",
    "a/../../x",
    "a//b",
    "",
    ".",
    "C:/x",
    "c:x",
    "..\\x",
    "a\\b",
    ".git/config",
    ".GIT/config",
    "a/.Git/hooks/post-checkout",
    ".git /config",
    ".git./config",
    "git~1/config",
    ".g\u200cit/config",
    ".git",
    "HEAD",
    "a/head",
    "a\nb",
    "a\x1b[2Jb",
    "a\x7f",
    "a\u2028b",
    "a\udc80",
    "x" * 256,
    "/".join(["x" * 200] * 6),
]
SAFE = [
    "a",
    "a/b.py",
    ".gitignore",
    "a/.gitattributes",
    "head.py",
    "heads/a",
    "..a",
    "é\u202fa",
    "a b",
]


@pytest.mark.parametrize("path", UNSAFE)
def test_a_path_that_leads_elsewhere_or_into_git_is_unsafe(path: str) -> None:
    assert unsafe(path) != ""


def test_what_people_call_their_files_is_safe() -> None:
    assert [unsafe(path) for path in SAFE] == [""] * len(SAFE)


def sealed(run: Run, files: dict[str, bytes] | None = None, **experiment: Any) -> Run:
    """Give a copy of a run another archive or experiment, and a receipt that fits all of it."""
    folder, parts = run.folder, run.parts
    if files is not None:
        (folder / "source.zip").write_bytes(source.archive(files))
    if experiment:
        content = run.experiment() | experiment
        (folder / "experiment.yaml").write_text(yaml_text.dump(content))
        decide = {key: value for key, value in experiment.items() if key in parts["experiment"]}
        parts["experiment"] |= decide  # type: ignore[typeddict-item]
    receipt: Any = json.loads((folder / "receipt.json").read_bytes())
    del receipt["digest"]
    receipt["identity"] = identity(parts)
    for key, name in DIGESTED.items():
        receipt["results"][key] = digest_of(folder / name)
    receipt["digest"] = digest_of(canonical_json(receipt))
    (folder / "parts.json").write_bytes(readable_json(parts))
    (folder / "identity.json").write_bytes(readable_json(identity(parts)))
    (folder / "receipt.json").write_bytes(readable_json(receipt))
    return run


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of a run, to be forged."""
    return Run(shutil.copytree(finished_run.folder, tmp_path / finished_run.name, symlinks=True))


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name", ["/in", "../in", ".git/config", ".GIT/config", "C:/in", "a\x1b[2J"]
)
def test_no_file_of_a_source_leads_out_of_its_folder_or_into_git(
    copy: Run, tmp_path: Path, name: str
) -> None:
    sealed(copy, source.unpacked(copy.folder / "source.zip") | {name: b"in"})
    before = below(tmp_path)
    with pytest.raises(RunError, match=r"source\.zip") as caught:
        checkout(copy, tmp_path / "out")
    assert (below(tmp_path), "\x1b" in str(caught.value)) == (before, False)


@pytest.mark.parametrize("setting", ["name", "recipe", "package"])
@pytest.mark.parametrize("value", ["/tmp/in", "../../../in", ".git", "a\x1b]0;in\x07"])
def test_no_name_of_an_experiment_leads_out_of_its_folder(
    copy: Run, tmp_path: Path, setting: str, value: str
) -> None:
    sealed(copy, None, **{setting: value})
    before = below(tmp_path)
    with pytest.raises(RunError, match=rf"experiment\.yaml: {setting}") as caught:
        checkout(copy, tmp_path / "out")
    assert (below(tmp_path), "\x1b" in str(caught.value)) == (before, False)


@pytest.mark.parametrize("folder", ["../in", "/in", "a/.git"])
def test_no_folder_of_a_script_leads_out_of_its_own(tmp_path: Path, folder: str) -> None:
    command = {"words": ["a.py"], "folder": ".", "seed": 0, "threads": 1}
    named = {"name": "a", "command": command, "repository": "/", "paths": []}
    script = Script(tmp_path)
    for change in ({"folders": [folder]}, {"folders": [], "command": command | {"folder": folder}}):
        (tmp_path / "script.json").write_bytes(readable_json(named | change))
        with pytest.raises(RunError, match=r"script\.json: folder"):
            _ = script.named
    (tmp_path / "script.json").write_bytes(readable_json(named | {"folders": [".", "a/b"]}))
    assert script.named["folders"] == [".", "a/b"]


def test_a_link_beside_a_run_is_not_followed(copy: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a key")
    (copy.folder / "notes.txt").symlink_to(tmp_path / "secret")
    where = checkout(copy, tmp_path / "out")
    assert (where / "notes.txt").exists() is False


def compressed(name: str, size: int) -> bytes:
    """A zip of one file of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, bytes(size))
    return file.getvalue()


def overlapping(size: int, many: int) -> bytes:
    """A zip whose list names the same bytes many times."""
    content = source.archive({"a": bytes(size)})
    end = content.index(b"PK\x01\x02")
    row = content[end:-22]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, many, many, len(row) * many, end, 0)
    return content[:end] + row * many + tail


ZIPS: dict[str, Callable[[], bytes]] = {
    "compressed files": lambda: compressed("a", 1 << 24),
    "compressed files, expected": lambda: overlapping(1 << 16, 1000),
    "more files than": lambda: overlapping(1, 9)[:-22]
    + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 5_000_000, 40, 0),
    "is a file and a folder": lambda: source.archive({"a": b"", "a/b": b""}),
}


@pytest.mark.parametrize("words", ZIPS)
def test_an_archive_that_would_grow_is_refused_by_its_list(tmp_path: Path, words: str) -> None:
    (tmp_path / "source.zip").write_bytes(ZIPS[words]())
    with pytest.raises(RunError, match=words):
        source.unpacked(tmp_path / "source.zip")


@pytest.mark.slow
def test_a_bundle_that_would_grow_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    whole = archive.packed({"weights.safetensors": bytes(1 << 28)})
    path.write_bytes(b"".join(deflated(whole)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BundleError, match="is too large"):
        archive.unpack(path, tmp_path / "to")
    assert (tmp_path / "to").exists() is False


def deflated(packed: bytes) -> list[bytes]:
    import gzip

    packer = zlib.compressobj(9, wbits=31)
    return [packer.compress(gzip.decompress(packed)), packer.flush()]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize("text", [BOMB, MERGED, "a: &a [*a]"])
def test_aliases_stand_for_a_bounded_number_of_values(copy: Run, text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="aliases stand for more than 100,000 values"):
        yaml_text.load(text)
    (copy.folder / "experiment.yaml").write_text(text)
    with pytest.raises(RunError, match=r"experiment\.yaml: not readable as YAML \(its aliases"):
        copy.experiment()


def test_an_alias_is_what_it_stands_for() -> None:
    assert yaml_text.load("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": [1, 2]},
    }


def test_golden_answers_are_as_few_as_they_were_made() -> None:
    row = base64.b64encode(bytes(4)).decode()
    content = {"answers": [], "inputs": [row] * 9, "shape": [1], "type": "<f4"}
    with pytest.raises(ModelError, match=r"golden\.json: found 9 inputs, expected 8 at most"):
        golden.parsed(json.dumps(content).encode())


def test_a_list_of_more_tensors_than_any_model_has_is_not_read() -> None:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    head = json.dumps({f"tensor{number}": one for number in range(100_000)}).encode()
    with pytest.raises(ValueError, match="found a list of tensors of"):
        tensors(struct.pack("<Q", len(head)) + head)
    with pytest.raises(ValueError, match="no safetensors"):
        tensors(b"\x02" + bytes(7) + b"{]")
    content = safetensors.torch.save({"a": torch.ones(2)})
    assert tensors(content)["a"].tolist() == [1, 1]


COMMANDS = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eabc\r\x08"
ESCAPED = "\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202eabc\\r\\x08"


def test_nothing_that_commands_a_terminal_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(f"{COMMANDS}\n\té\u3000\U0001f469\u200d\U0001f52c")
    console.Lines(sys.stderr).say(COMMANDS)
    console.table(["name"], [[COMMANDS]])
    out, err = capsys.readouterr()
    assert (out, err) == (
        f"{ESCAPED}\n\té\u3000\U0001f469\u200d\U0001f52c\nname\n{ESCAPED}\n",
        f"{ESCAPED}\n",
    )
    assert str(LockstepError(COMMANDS)) == ESCAPED


def test_verbs_print_through_the_console_alone() -> None:
    folder = Path(console.__file__).parents[1] / "cli"
    texts = {path.name: path.read_text() for path in folder.glob("*.py") if path.name != "tasks.py"}
    assert [name for name, text in texts.items() if " print(" in text] == []


def test_names_in_a_run_of_others_do_not_command_the_terminal(copy: Run, call: Call) -> None:
    odd = copy.folder.rename(copy.folder.with_name(f"{copy.name}{COMMANDS}"))
    _, out, err = call("runs", "--runs", str(odd.parent))
    _, shown, error = call("compare", str(odd), str(odd))
    _, _, last = call("checkout", str(odd), str(odd.parent))
    assert "\x1b" not in out + err + shown + error + last
    assert ESCAPED in out


def test_code_that_this_checkout_does_not_know_runs_only_if_it_is_trusted(copy: Run) -> None:
    files, parts = source.unpacked(copy.folder / "source.zip"), copy.parts
    name = "lockstep/examples/models/digits/model.py"
    files[name] += b"\nimport os\n"
    parts["source"][name] = source.digests({name: files[name]})[name]
    (copy.folder / "parts.json").write_bytes(readable_json(parts))
    sealed(copy, files)
    assert verify(copy) == []
    with pytest.raises(RunError, match=f"{name} is not known in this checkout; read it"):
        code_of(copy)
    assert code_of(copy, trust=True)[name] == files[name]


def test_code_that_differs_in_comments_only_is_known(copy: Run) -> None:
    files = source.unpacked(copy.folder / "source.zip")
    name = "lockstep/examples/models/digits/model.py"
    files[name] += b"\n# a comment\n"
    assert code_of(sealed(copy, files))[name] == files[name]


def test_code_of_others_sees_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from lockstep.ground.processes import variables_for_others

    for name in ("AWS_SECRET_ACCESS_KEY", "LOCKSTEP_SIGNING_KEY", "GITHUB_TOKEN", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    seen = variables_for_others()
    assert ("secret" in seen.values(), seen["LC_ALL"], seen["PATH"]) == (
        False,
        "C.UTF-8",
        os.environ["PATH"],
    )
