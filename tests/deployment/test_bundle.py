"""The bundle of a run: the same bytes, all that an answer needs, answers as in prediction."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from project import trained
from project.bundles import manifest
from project.bundles.archive import unpack
from project.deployment import bundle as bundling
from project.deployment.bundle import Bundle, made
from project.errors import BundleError, EnvironmentMismatch
from project.models.digits import Predictor
from project.records import environment
from project.records.receipt import Run
from tests.conftest import ROOT, command, plain_environment

# What a container does: a fresh process, code/ on the path, the packages, and nothing else of ours.
SERVER = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
import project
assert project.__file__.startswith(sys.argv[1]), project.__file__
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


def served(bundle: Bundle, folder: Path, *requests: tuple[str, bytes]) -> list[tuple[str, object]]:
    """Content type and answer for each request, by a process as a container would start it."""
    (folder / "model.tar.gz").write_bytes(bundle.content)
    unpack(folder / "model.tar.gz", folder / "opt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SERVER, str(folder / "opt")],
        input="".join(json.dumps((kind, body.hex())) + "\n" for kind, body in requests),
        cwd=folder,
        env=plain_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(kind, json.loads(text)) for text, kind in answers]


@pytest.fixture(scope="module")
def bundle(finished_run: Run) -> Bundle:
    return made(finished_run)


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Run:
    """A run that may be changed."""
    folder = tmp_path / finished_run.name
    shutil.copytree(finished_run.folder, folder)
    return Run(folder)


def files_in(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.content), mode="r:gz") as file:
        return {one.name: (file.extractfile(one) or io.BytesIO()).read() for one in file}


def test_the_same_run_is_the_same_archive_in_another_process_and_time_zone(
    bundle: Bundle, finished_run: Run, tmp_path: Path
) -> None:
    words = ["bundle", str(finished_run.folder), "--json"]
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


def test_it_holds_weights_code_and_what_is_to_be_said_of_them(
    bundle: Bundle, finished_run: Run
) -> None:
    files = files_in(bundle)
    top = {name for name in files if "/" not in name} - {"golden.json"}
    assert top == {
        "LICENCES.md",
        "manifest.json",
        "preprocess.json",
        "receipt.json",
        "sbom.json",
        "weights.safetensors",
    }
    for name in ("weights.safetensors", "preprocess.json", "receipt.json"):
        assert files[name] == (finished_run.folder / name).read_bytes()
    kinds = {Path(name).suffix for name in files}
    assert kinds == {".json", ".md", ".py", ".safetensors", ".txt"}  # nothing pickled
    told = json.loads(files["manifest.json"])
    assert (told["model"], told["takes"], told["run"]) == ("digits", "picture", finished_run.name)
    assert told["version"] == f"0.1.0+{finished_run.name.rpartition('-')[2]}"


def test_its_code_is_what_trained_the_run_and_no_more_than_an_answer_needs(
    bundle: Bundle, finished_run: Run
) -> None:
    files = files_in(bundle)
    trained_by = finished_run.parts["source"]
    code = {n.removeprefix("code/"): c for n, c in files.items() if n.startswith("code/project/")}
    assert {name: bundling.digest_of(content) for name, content in code.items()}.items() <= (
        trained_by.items()
    )
    assert {"project/training/loop.py", "project/experiment.py"} & set(code) == set()


def test_its_packages_are_those_of_the_lock_with_every_digest(bundle: Bundle) -> None:
    files = files_in(bundle)
    lock = json.loads((ROOT / "Pipfile.lock").read_bytes())
    wanted = {}
    for name in ("numpy", "omegaconf", "pillow", "pyyaml", "safetensors"):
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
    bundle: Bundle, finished_run: Run, tmp_path: Path
) -> None:
    png = (ROOT / "docs" / "three.png").read_bytes()
    arrays = [[[(row * column) % 256 for column in range(8)] for row in range(8)], [[255] * 8] * 8]
    answers = served(
        bundle,
        tmp_path,
        ("image/png", png),
        ("application/json", json.dumps(arrays).encode()),
        ("image/png", png),
    )
    predictor = Predictor.load(finished_run.folder)
    first, both = predictor.predict([png]), predictor.predict(arrays)
    kind = "application/json"
    assert answers == [(kind, first), (kind, both), (kind, first)]


def test_a_container_refuses_what_is_no_picture_and_never_opens_a_path(
    bundle: Bundle, tmp_path: Path
) -> None:
    picture = str(ROOT / "docs" / "three.png")
    answers = served(
        bundle,
        tmp_path,
        ("application/json", json.dumps([picture]).encode()),
        ("application/json", b'{"instances": []}'),
        ("text/csv", b"title,description\na,b\n"),
        ("text/plain", picture.encode()),
        ("image/png", b"no picture"),
        ("application/x-npy", b""),
    )
    assert [kind for kind, _ in answers] == ["ValueError"] * 4 + ["DataError", "ValueError"]
    assert answers[0][1] == "input: found str, wanted pictures."


@pytest.mark.slow
def test_a_container_reads_texts_as_csv_json_and_plain(
    train_briefly: Callable[..., Run], tmp_path: Path
) -> None:
    run = train_briefly("tags/base")
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
    wanted = trained.predictor(run).predict(texts)
    kind = "application/json"
    assert answers[:3] == [(kind, wanted), (kind, wanted), (kind, wanted[1:])]
    assert answers[3] == ("ValueError", "input: found list, wanted texts.")


def test_it_is_loaded_packed_and_unpacked_and_refused_by_file_name(
    bundle: Bundle, finished_run: Run, tmp_path: Path
) -> None:
    packed = tmp_path / "model.tar.gz"
    bundle.write(packed)
    unpack(packed, tmp_path / "to")
    png = ROOT / "docs" / "three.png"
    wanted = Predictor.load(finished_run.folder).predict([png])
    for place in (packed, tmp_path / "to"):
        assert Predictor.load(place).predict([png]) == wanted
    path = tmp_path / "to" / "code" / "project" / "config.py"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(BundleError, match=f"^{path}: found sha256"):
        Predictor.load(tmp_path / "to")


def test_with_a_public_key_configured_only_signed_bundles_are_loaded(
    bundle: Bundle, finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["keys", "--output", str(tmp_path / "keys")],):
        assert command(*words).returncode == 0
    key = tmp_path / "keys" / "lockstep"
    signed = made(finished_run, key.with_suffix(".key"))
    both = [files_in(one) for one in (signed, bundle)]
    assert {name for name in both[0] if both[0][name] != both[1].get(name)} == {"signature.json"}
    signed.write(tmp_path / "signed")
    bundle.write(tmp_path / "unsigned")
    monkeypatch.setenv("LOCKSTEP_PUBLIC_KEY", str(key.with_suffix(".pub")))
    Predictor.load(tmp_path / "signed")
    with pytest.raises(BundleError, match="is not signed"):
        Predictor.load(tmp_path / "unsigned")
    # As a folder of a run it would else be loaded, with its manifest taken away.
    unpack(tmp_path / "unsigned", tmp_path / "to")
    (tmp_path / "to" / manifest.NAME).unlink()
    with pytest.raises(BundleError, match="lets only those be loaded"):
        Predictor.load(tmp_path / "to")


def test_the_verb_says_whether_it_signed(finished_run: Run, tmp_path: Path) -> None:
    command("keys", "--output", str(tmp_path))
    words = ["bundle", str(finished_run.folder), "--output", str(tmp_path / "a")]
    done = command(*words)
    assert done.stdout.splitlines()[-1].startswith("unsigned: no key was given")
    done = command(*words, LOCKSTEP_SIGNING_KEY=str(tmp_path / "lockstep.key"))
    assert done.stdout.splitlines()[-1] == "signed"


def test_a_run_that_is_not_finished_or_was_altered_has_no_bundle(copy: Run) -> None:
    path = copy.folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"was altered: weights\.safetensors"):
        made(copy)
    (copy.folder / "receipt.json").unlink()
    with pytest.raises(BundleError, match="wanted a finished run"):
        made(copy)


def test_a_run_of_other_packages_has_no_bundle_here(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = environment.installed() | {"numpy": "1.0"}
    monkeypatch.setattr(environment, "installed", lambda: other)
    with pytest.raises(EnvironmentMismatch, match=r"^numpy: the run was trained with 2\.4\.6, "):
        made(finished_run)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits/base", "apparel/base"])
def test_onnx_is_the_same_bytes_and_answers_within_its_tolerance(
    recipe: str, train_briefly: Callable[..., Run], tmp_path: Path
) -> None:
    run = train_briefly(recipe)
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
    assert (told["tolerance"], told["examples"], told["input"][:2]) == (1e-4, 64, ["n", 1])


def test_onnx_that_answers_otherwise_is_refused(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from project.deployment import onnx

    predictor = Predictor.load(finished_run.folder)
    monkeypatch.setattr(onnx, "_written", lambda *_: b"")
    scores = np.zeros((4, 10), np.float32)
    monkeypatch.setattr(onnx, "_answers", lambda *_: scores)
    with pytest.raises(BundleError, match=r"^model\.onnx: found probabilities 0\.\d+ apart"):
        onnx.exported(predictor, list(np.eye(8, dtype=np.uint8)[None].repeat(4, 0)))


def test_what_is_stored_is_not_deflated(bundle: Bundle) -> None:
    """So its bytes do not depend on the zlib at hand."""
    assert len(bundle.content) > len(gzip.decompress(bundle.content))
