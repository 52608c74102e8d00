"""The bundle of a run: the same bytes, all that an answer needs, answers as in prediction."""

import gzip
import io
import json
import math
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lockstep
from lockstep import loading
from lockstep.answers import golden
from lockstep.bundles import manifest
from lockstep.bundles.archive import packed, unpack
from lockstep.examples.models.digits import Predictor, Preprocess
from lockstep.ground import environment, profiles
from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import BundleError, EnvironmentMismatch, ModelError, RunError
from lockstep.publishing import needs
from lockstep.publishing.bundle import Bundle, made
from lockstep.records import source
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command, plain_environment
from lockstep.tests.records.test_receipt import resealed
from lockstep.tests.test_acceptance import state

pytestmark = pytest.mark.slow  # a run is trained, accepted and packed for them

# What a container does: a fresh process, code/ on the path, the packages, and nothing else of ours.
SERVER = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
import lockstep
assert lockstep.__file__.startswith(sys.argv[1]), lockstep.__file__
model = inference.model_fn(sys.argv[1])
for line in sys.stdin:
    kind, body = json.loads(line)
    try:
        given = inference.input_fn(bytes.fromhex(body), kind)
        answer = inference.output_fn(inference.predict_fn(given, model), "application/json")
    except Exception as error:
        answer = (json.dumps(str(error)), type(error).__name__)
    print(json.dumps(answer), flush=True)
"""


def contained(
    bundle: Bundle, folder: Path, requests: str = "", first: str = "", **variables: str
) -> "subprocess.CompletedProcess[str]":
    """A process as a container would start it, that has answered a line for each request."""
    (folder / "model.tar.gz").write_bytes(bundle.content)
    shutil.rmtree(folder / "opt", ignore_errors=True)
    unpack(folder / "model.tar.gz", folder / "opt")
    return subprocess.run(
        [sys.executable, "-I", "-c", first + SERVER, str(folder / "opt")],
        input=requests,
        cwd=folder,
        env=plain_environment() | variables,
        capture_output=True,
        text=True,
    )


def served(bundle: Bundle, folder: Path, *requests: tuple[str, bytes]) -> list[tuple[str, object]]:
    """Content type and answer for each request."""
    lines = "".join(json.dumps((kind, body.hex())) + "\n" for kind, body in requests)
    done = contained(bundle, folder, lines)
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(kind, json.loads(text)) for text, kind in answers]


@pytest.fixture
def copy(digits: Run, tmp_path: Path) -> Run:
    """A run that may be changed."""
    folder = tmp_path / digits.name
    shutil.copytree(digits.folder, folder)
    return Run(folder)


def files_in(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.content), mode="r:gz") as file:
        return {one.name: (file.extractfile(one) or io.BytesIO()).read() for one in file}


def test_the_same_run_is_the_same_archive_in_another_process_and_time_zone(
    bundle: Bundle, digits: Run, tmp_path: Path
) -> None:
    words = ["bundle", str(digits.folder), "--json"]
    path = str(tmp_path / "model.tar.gz")
    other = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LANG": "C"}
    done = command(*words, "--output", path, **other)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (Path(path).read_bytes() == bundle.content, told["sha256"], told["signed"]) == (
        True,
        bundle.sha256,
        False,
    )


def test_a_copy_of_a_run_under_another_name_is_the_same_archive(
    bundle: Bundle, digits: Run, tmp_path: Path
) -> None:
    copy = Run(shutil.copytree(digits.folder, tmp_path / "my best (copy)"))
    assert made(copy) == bundle


def test_it_holds_weights_code_and_what_is_to_be_said_of_them(bundle: Bundle, digits: Run) -> None:
    files = files_in(bundle)
    assert {name for name in files if "/" not in name} == {
        "LICENCES.md",
        "golden.json",
        "manifest.json",
        "preprocess.json",
        "receipt.json",
        "sbom.json",
        "weights.safetensors",
    }
    for name in ("weights.safetensors", "preprocess.json", "receipt.json", "golden.json"):
        assert files[name] == (digits.folder / name).read_bytes()
    kinds = {Path(name).suffix for name in files}
    assert kinds == {".json", ".md", ".py", ".safetensors", ".txt"}  # nothing pickled
    told = json.loads(files["manifest.json"])
    assert (told["model"], told["run"]) == ("digits", digits.name)
    assert told["package"] == "lockstep.examples"
    assert told["version"] == f"{lockstep.__version__}+{digits.name.rpartition('-')[2]}"


def test_its_code_is_what_trained_the_run_and_no_more_than_an_answer_needs(
    bundle: Bundle, digits: Run
) -> None:
    files = files_in(bundle)
    trained_by = digits.parts["source"]
    code = {n.removeprefix("code/"): c for n, c in files.items() if n.startswith("code/lockstep/")}
    found = {n: digest for n, digest in source.digests(code).items() if n in trained_by}
    assert "lockstep/examples/models/digits/model.py" in found
    assert found == {name: digest for name, digest in trained_by.items() if name in found}
    assert {"lockstep/training/loop.py", "lockstep/run/making.py"} & set(code) == set()


def test_its_packages_are_those_of_the_lock_with_every_digest(bundle: Bundle) -> None:
    files = files_in(bundle)
    lock = json.loads((ROOT / "Pipfile.lock").read_bytes())
    wanted = {}
    for name in ("numpy", "packaging", "pillow", "safetensors"):
        entry = lock["default"][name]
        wanted[name + entry["version"]] = set(entry["hashes"])
    text = files["code/requirements.txt"].decode().replace("\\\n", " ")
    rows = [line.split() for line in text.splitlines() if line[0] != "#"]
    found = {first: {one.removeprefix("--hash=") for one in more} for first, *more in rows}
    assert found == wanted
    parts = json.loads(files["sbom.json"])["components"]
    torch = environment.installed()["torch"]
    assert {f"{one['name']}=={one['version']}" for one in parts} == {*wanted, f"torch=={torch}"}
    licences = files["LICENCES.md"].decode()
    assert "| pillow | 13.0.0 | MIT-CMU |" in licences and "CC BY 4.0" in licences


def test_a_container_gives_the_answers_of_the_predictor_bit_for_bit(
    bundle: Bundle, digits: Run, tmp_path: Path
) -> None:
    png = (ROOT / "lockstep" / "docs" / "three.png").read_bytes()
    arrays = [[[(row * column) % 256 for column in range(8)] for row in range(8)], [[255] * 8] * 8]
    kept = json.loads((digits.folder / "golden.json").read_bytes())
    shown = [golden.as_lists(Preprocess.show(row)) for row in golden.examples(kept)]
    answers = served(
        bundle,
        tmp_path,
        ("image/png", png),
        ("application/json", json.dumps(arrays).encode()),
        ("image/png", png),
        ("application/json", json.dumps(shown).encode()),
    )
    predictor = Predictor.load(digits.folder)
    first, both = predictor.predict([png]), predictor.predict(arrays)
    kind = "application/json"
    assert answers == [(kind, first), (kind, both), (kind, first), (kind, kept["answers"])]


def test_a_container_refuses_a_model_whose_golden_answers_differ(
    bundle: Bundle, tmp_path: Path
) -> None:
    """By one bit; everything else agrees, as on a machine that computes otherwise."""
    files = files_in(bundle)
    kept, receipt = (json.loads(files[name]) for name in ("golden.json", "receipt.json"))
    confidences = kept["answers"][3]["confidences"]
    confidences["7"] = math.nextafter(confidences["7"], 1)
    files["golden.json"] = readable_json(kept)
    receipt["results"]["golden_sha256"] = digest_of(files["golden.json"])
    files["receipt.json"] = resealed(receipt)
    del files[manifest.NAME]
    files[manifest.NAME] = manifest.make(files, bundle.facts)
    done = contained(replace(bundle, content=packed(files)), tmp_path)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, "answers otherwise than in training (example 4, 7: " in last) == (
        1,
        True,
    )


def test_a_container_that_has_loaded_torch_says_that_nothing_was_compared(
    bundle: Bundle, tmp_path: Path
) -> None:
    done = contained(bundle, tmp_path, first="import torch\n")
    assert (done.returncode, done.stderr) == (
        0,
        "golden answers unchecked: this process is not under the run's profile\n",
    )
    variables = profiles.variables("portable")  # then it is of no matter who loads torch, and when
    done = contained(bundle, tmp_path, first="import torch\n", **variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_container_refuses_what_is_no_picture_and_never_opens_a_path(
    bundle: Bundle, tmp_path: Path
) -> None:
    picture = str(ROOT / "lockstep" / "docs" / "three.png")
    many = [["x" * 1_000_000, *range(1_000_000)]]  # NumPy would make 4 TB of it
    answers = served(
        bundle,
        tmp_path,
        *(("application/json", json.dumps(one).encode()) for one in ([picture], [many])),
        ("text/plain", picture.encode()),
        ("text/csv", b"title,description\na,b\n"),
        ("application/json", b'{"instances": []}'),
        ("application/json", b"[" * 100_000),
        ("image/png", b"no picture"),
        ("text/plain", b"\xff"),
        ("application/x-parquet", b""),
    )
    assert [kind for kind, _ in answers] == ["ValueError"] * 9
    assert [str(told).partition(" (")[0] for _, told in answers] == [
        *["input: found a text, expected pictures."] * 3,
        "text/csv: found a table, expected pictures.",
        "body: found other JSON, expected a list of pictures.",
        "body: not readable as application/json",
        "picture: no readable picture",
        "body: not readable as text/plain",
        "content type: found 'application/x-parquet', expected one of image/png, image/jpeg, "
        "application/x-image, application/json, text/csv, text/plain, application/x-npy.",
    ]


def test_a_container_reads_texts_as_csv_json_and_plain(
    accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    run = accepted("tags/base")
    table = b'title,description\nA detector,"Finds cars, fast"\n"Word ""vectors""",of\n'
    texts = ["A detector\nFinds cars, fast", 'Word "vectors"\nof']
    answers = served(
        made(run),
        tmp_path,
        ("text/csv; charset=utf-8", table),
        ("application/json", json.dumps(texts).encode()),
        ("text/plain", texts[1].encode()),
        ("application/json", b"[[1, 2]]"),
    )
    wanted = loading.predictor(run).predict(texts)
    kind = "application/json"
    assert answers[:3] == [(kind, wanted), (kind, wanted), (kind, wanted[1:])]
    assert answers[3] == ("ValueError", "text: found [1, 2], expected words.")


def test_it_is_loaded_packed_and_unpacked_and_refused_by_file_name(
    bundle: Bundle, digits: Run, tmp_path: Path
) -> None:
    archive = tmp_path / "model.tar.gz"
    bundle.write(archive)
    unpack(archive, tmp_path / "to")
    png = ROOT / "lockstep" / "docs" / "three.png"
    wanted = Predictor.load(digits.folder).predict([png])
    for place in (archive, tmp_path / "to"):
        assert Predictor.load(place).predict([png]) == wanted
    path = tmp_path / "to" / "code" / "lockstep" / "model.py"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(BundleError, match=f"^{path}: found sha256"):
        Predictor.load(tmp_path / "to")


def fitting(bundle: Bundle, facts: dict[str, Any], changes: dict[str, bytes | None]) -> bytes:
    """The archive with other facts and files; each digest in it is right again."""
    files = {name: content for name, content in files_in(bundle).items() if name != manifest.NAME}
    receipt = json.loads(files["receipt.json"])
    for name, content in changes.items():
        for key in ("preprocess", "weights", "golden"):
            if content is not None and name.startswith(key):
                receipt["results"][f"{key}_sha256"] = digest_of(content)
    files["receipt.json"] = resealed(receipt)
    kept = {name: content for name, content in (files | changes).items() if content is not None}
    said = manifest.make(kept, {**bundle.facts, **facts})
    return packed(kept | {manifest.NAME: said})


@pytest.mark.parametrize(
    ("told", "facts", "changes"),
    [
        ("/manifest.json: not the manifest of a bundle (model: found None", {"model": None}, {}),
        ("/manifest.json: not the manifest of a bundle (profile: found [", {"profile": ["x"]}, {}),
        ("/manifest.json: found profile 'xx', expected portable or native", {"profile": "xx"}, {}),
        ("/receipt.json: not found", {}, {"receipt.json": None}),
        ("/receipt.json: not readable as JSON", {}, {"receipt.json": b"{"}),
        ("/receipt.json: found a list", {}, {"receipt.json": b"[]"}),
        ("/receipt.json: schema: found null", {}, {"receipt.json": b'{"results": []}'}),
        ("/receipt.json: digest not found", {}, {"receipt.json": b'{"schema": 2}'}),
        (": not readable by this model", {}, {"weights.safetensors": b"junk"}),
        (": not readable by this model", {}, {"preprocess.json": b'{"model": "digits"}'}),
        (": not readable by this model", {}, {"preprocess.json": b"[]"}),
        (": not readable by this model", {}, {"golden.json": b"{}"}),
        (": found the model 'apparel'", {}, {"preprocess.json": b'{"model": "apparel"}'}),
    ],
)
def test_odd_content_under_right_digests_is_reported_in_one_line(
    told: str,
    facts: dict[str, Any],
    changes: dict[str, bytes | None],
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    """Of a packed bundle by its own path, not by that of a folder which is gone by then."""
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(fitting(bundle, {}, {}))
    assert loading.served(archive).about["golden"] == "equal"
    archive.write_bytes(fitting(bundle, facts, changes))
    for load in (loading.served, loading.predictor):
        with pytest.raises((ModelError, RunError)) as error:
            load(archive)
        line = str(error.value)
        assert line.startswith(f"{archive}{told}"), line
        assert ("\n" in line, "lockstep-bundle-" in line) == (False, False)


def test_a_config_of_other_code_is_reported_in_one_line(bundle: Bundle, tmp_path: Path) -> None:
    stored = json.loads(files_in(bundle)["preprocess.json"])
    stored["config"]["depth"] = 3
    changes: dict[str, bytes | None] = {"preprocess.json": readable_json(stored)}
    (tmp_path / "a").write_bytes(fitting(bundle, {}, changes))
    with pytest.raises(ModelError, match=r"unexpected keyword argument 'depth'.* other code"):
        Predictor.load(tmp_path / "a")


def test_a_receipt_without_what_is_told_to_who_is_served_is_reported_in_one_line(
    bundle: Bundle, tmp_path: Path
) -> None:
    receipt = json.loads(files_in(bundle)["receipt.json"])
    del receipt["timing"]
    (tmp_path / "a").write_bytes(fitting(bundle, {}, {"receipt.json": readable_json(receipt)}))
    with pytest.raises(RunError, match=r"/a/receipt\.json: timing not found; it was altered"):
        loading.served(tmp_path / "a")


def test_with_a_public_key_configured_only_signed_bundles_are_loaded(
    bundle: Bundle, digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("keys", "--output", str(tmp_path / "keys")).returncode == 0
    key = tmp_path / "keys" / "lockstep"
    signed = made(digits, key.with_suffix(".key"))
    both = [files_in(one) for one in (signed, bundle)]
    assert {name for name in both[0] if both[0][name] != both[1].get(name)} == {"signature.json"}
    signed.write(tmp_path / "signed")
    bundle.write(tmp_path / "unsigned")
    monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(key.with_suffix(".pub")))
    Predictor.load(tmp_path / "signed")
    with pytest.raises(BundleError, match="not signed"):
        Predictor.load(tmp_path / "unsigned")
    # As a folder of a run it would else be loaded, with its manifest taken away.
    unpack(tmp_path / "unsigned", tmp_path / "to")
    (tmp_path / "to" / manifest.NAME).unlink()
    with pytest.raises(BundleError, match="allows no other to be loaded"):
        Predictor.load(tmp_path / "to")


def test_the_verb_says_whether_it_signed(digits: Run, tmp_path: Path) -> None:
    command("keys", "--output", str(tmp_path))
    words = ["bundle", str(digits.folder), "--output", str(tmp_path / "a")]
    done = command(*words)
    assert done.stdout.splitlines()[-1].startswith("unsigned: no key was given")
    done = command(*words, LOCKSTEP_SIGNING_KEY=str(tmp_path / "lockstep.key"))
    assert done.stdout.splitlines()[-1] == "signed"


def test_a_run_that_is_not_finished_or_was_altered_has_no_bundle(copy: Run) -> None:
    path = copy.folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"altered: weights\.safetensors"):
        made(copy)
    (copy.folder / "receipt.json").unlink()
    with pytest.raises(BundleError, match="expected a finished run"):
        made(copy)


def test_a_run_of_the_first_edition_has_no_bundle_and_one_line_says_why(
    digits: Run, tmp_path: Path
) -> None:
    files = source.unpacked(digits.folder / "source.zip")
    del files["lockstep/model.py"]
    (tmp_path / "source.zip").write_bytes(source.archive(files))
    with pytest.raises(BundleError, match=r"trained by the first edition.* train it again"):
        needs.code(Run(tmp_path), "digits", b"")


def test_a_run_of_other_packages_has_no_bundle_here(
    digits: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = environment.installed() | {"numpy": "1.0"}
    monkeypatch.setattr(environment, "installed", lambda: other)
    with pytest.raises(EnvironmentMismatch, match=r"^numpy: the run was trained with 2\.4\.6, "):
        made(digits)


@pytest.mark.parametrize(
    ("state", "same"),
    [
        ("{here}", True),
        ("wheel " + "a" * 64, False),
        ("not as locked, {here}", True),  # then; the lock has it now
        ("edited " + "a" * 64, False),
        ("a" * 64, True),  # of the lock's hashes, as before schema 3
    ],
)
def test_a_package_is_bundled_only_from_the_wheel_that_trained_the_run(
    state: str, same: bool, digits: Run, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(digits.folder, tmp_path / digits.name))
    parts = json.loads((run.folder / "parts.json").read_bytes())
    version, here = parts["packages"]["numpy"]
    parts["packages"]["numpy"][1] = state.format(here=here)
    (run.folder / "parts.json").write_text(json.dumps(parts))
    locked = environment.locked_packages("default")
    if same:
        assert needs._package(run, "numpy", locked).hashes == locked["numpy"]["hashes"]
    else:
        with pytest.raises(EnvironmentMismatch, match=rf"{version} \(another file of that version"):
            needs._package(run, "numpy", locked)


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [("digits/base", [1, 8, 8]), ("apparel/base", [1, 28, 28]), ("tags/base", [16384])],
)
def test_onnx_is_the_same_bytes_and_answers_within_its_tolerance(
    recipe: str, shape: list[int], accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    run = accepted(recipe)
    contents = []
    for name in "ab":
        words = ["bundle", str(run.folder), "--onnx", "--json", "--output", str(tmp_path / name)]
        done = command(*words)
        assert done.returncode == 0, done.stderr
        contents.append((tmp_path / name).read_bytes())
    told = json.loads(done.stdout)["onnx"]
    with tarfile.open(tmp_path / "a") as file:
        onnx = (file.extractfile("model.onnx") or io.BytesIO()).read()
    assert (contents[0] == contents[1], str(ROOT).encode() in onnx) == (True, False)
    assert (told["tolerance"], told["examples"], told["input"]) == (1e-4, 64, ["n", *shape])


def test_onnx_needs_no_budget_to_find_torch_under_the_profile(copy: Run, tmp_path: Path) -> None:
    """The latency is measured first, if it is bounded, and loads torch rightly."""
    state(copy, "accept:\n  size_mb: < 5\n")
    done = command("bundle", str(copy.folder), "--onnx", "--output", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr


def test_a_run_that_does_not_keep_its_budgets_has_no_bundle(copy: Run, tmp_path: Path) -> None:
    state(copy, "accept:\n  test.accuracy: '>= 0.99'\n")
    done = command("bundle", str(copy.folder), "--output", str(tmp_path / "a"))
    told = f"error: {copy.name}: does not keep its recipe's budgets: test.accuracy 0."
    assert (done.returncode, done.stderr.startswith(told), list(tmp_path.iterdir())) == (
        2,
        True,
        [copy.folder],
    )


def test_onnx_that_answers_otherwise_is_refused(
    digits: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import torch

    from lockstep.publishing import onnx

    predictor = Predictor.load(digits.folder)
    monkeypatch.setattr(onnx, "_written", lambda *_: b"")
    monkeypatch.setattr(onnx, "Session", lambda _: lambda inputs: torch.zeros(len(inputs), 10))
    with pytest.raises(BundleError, match=r"^model\.onnx: found probabilities 0\.\d+ apart"):
        onnx.exported(predictor, list(np.eye(8, dtype=np.uint8)[None].repeat(4, 0)))


def test_what_is_stored_is_not_deflated(bundle: Bundle) -> None:
    """So its bytes do not depend on the zlib at hand."""
    assert len(bundle.content) > len(gzip.decompress(bundle.content))
