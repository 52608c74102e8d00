"""The bundle in SageMaker's own inference toolkit, in an environment of its own."""

import json
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.answers.inputs import Answer
from lockstep.bundles.archive import unpack
from lockstep.examples.models import tags
from lockstep.examples.models.digits import Predictor
from lockstep.publishing.bundle import Bundle, made
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, plain_environment

TOOLKIT = "sagemaker-inference==1.10.1"
# What a model server does with the toolkit: one service, a context for each request.
SERVER = """
import json, sys
from sagemaker_inference.default_handler_service import DefaultHandlerService

class Context:
    def __init__(self, folder, headers):
        self.system_properties = {"model_dir": folder}
        self.request_processor = [self]
        self.headers, self.status, self.kind = headers, (200, "OK"), ""
    def get_request_properties(self):
        return self.headers
    def set_response_status(self, code, phrase):
        self.status = (code, phrase)
    def set_response_content_type(self, _, kind):
        self.kind = kind

service, folder = DefaultHandlerService(), sys.argv[1]
service.initialize(Context(folder, {}))
for line in sys.stdin:
    headers, body = json.loads(line)
    context = Context(folder, headers)
    (answer,) = service.handle([{"body": bytearray.fromhex(body)}], context)
    print(json.dumps([*context.status, context.kind, answer]), flush=True)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the toolkit; all that it needs besides is locked."""
    folder = tmp_path_factory.mktemp("toolkit")
    found = environment(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lock.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install(found, TOOLKIT)
    return found


def environment(folder: Path) -> Path:
    """The Python of a new environment with nothing in it."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def install(python: Path, *words: str | Path) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def transformed(
    python: Path, bundle: Bundle, folder: Path, *requests: tuple[dict[str, str], bytes]
) -> list[tuple[int, str, str, str]]:
    """Status, its phrase, content type and body of the toolkit's answer to each request."""
    bundle.write(folder / "model.tar.gz")
    unpack(folder / "model.tar.gz", folder / "model")
    done = subprocess.run(
        [python, "-c", SERVER, folder / "model"],
        input="".join(json.dumps((headers, body.hex())) + "\n" for headers, body in requests),
        cwd=folder,
        env=plain_environment() | {"PYTHONPATH": f"{folder}/model/code:"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def sent(kind: str, **more: str) -> dict[str, str]:
    return {"Content-Type": kind, **more}


def answered(answers: list[Answer]) -> tuple[int, str, str, str]:
    return (200, "OK", "application/json", json.dumps(answers))


def test_the_toolkit_gives_the_answers_of_the_predictor_bit_for_bit(
    python: Path, accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    run = accepted("digits/base")
    png = (ROOT / "lockstep" / "docs" / "three.png").read_bytes()
    arrays = [[[(row * column) % 256 for column in range(8)] for row in range(8)], [[255] * 8] * 8]
    answers = transformed(
        python,
        made(run),
        tmp_path,
        (sent("image/png"), png),
        (sent("application/json", Accept="application/json"), json.dumps(arrays).encode()),
    )
    predictor = Predictor.load(run.folder)
    assert answers == [answered(predictor.predict([png])), answered(predictor.predict(arrays))]


def test_the_toolkit_reads_tables_and_texts(
    python: Path, accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    run = accepted("tags/base")
    table = '\ufefftitle,description\nA detector,"Finds cars, fast"\nWörter,of\n'.encode()
    texts = ["A detector\nFinds cars, fast", "Wörter\nof"]
    answers = transformed(
        python,
        made(run),
        tmp_path,
        (sent("text/csv"), table),
        (sent("application/json"), json.dumps(texts).encode()),
        (sent("text/plain"), texts[1].encode()),
    )
    wanted = tags.Predictor.load(run.folder).predict(texts)
    assert answers == [answered(wanted), answered(wanted), answered(wanted[1:])]


def test_a_callers_mistake_is_not_the_servers_to_the_toolkit(
    python: Path, accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    picture = b"[[[0, 255], [255, 0]]]"
    answers = transformed(
        python,
        made(accepted("digits/base")),
        tmp_path,
        (sent("image/png"), b"no picture"),
        (sent("application/json"), b'["docs/three.png"]'),
        (sent("application/json"), b"[[[1, 2]"),
        (sent("text/csv"), b"title,description\na,b\n"),
        (sent("application/x-parquet"), b""),
        ({}, b""),
        (sent("application/json", accept="text/html"), picture),
        (sent("application/json"), picture),
    )
    assert [(status, phrase) for status, phrase, _, _ in answers] == [
        *[(400, "Bad Request")] * 4,
        *[(415, "Unsupported Media Type")] * 2,
        (406, "Not Acceptable"),
        (200, "OK"),
    ]
    assert [body.splitlines()[0] for _, _, _, body in answers[:2]] == [
        "picture: no readable picture (no such format); give a PNG or JPEG.",
        "input: found a text, expected pictures.",
    ]


def test_its_requirements_can_be_installed_as_the_toolkit_does(
    accepted: Callable[[str], Run], tmp_path: Path
) -> None:
    bundle = made(accepted("digits/base"))
    bundle.write(tmp_path / "model.tar.gz")
    unpack(tmp_path / "model.tar.gz", tmp_path / "model")
    listed = tmp_path / "model" / "code" / "requirements.txt"
    python = environment(tmp_path / "environment")
    install(python, "-r", listed)
    words = [
        str(python),
        "-m",
        "pip",
        "list",
        "--format=freeze",
        "--exclude=pip",
        "--exclude=setuptools",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    wanted = [line.split()[0] for line in listed.read_text().splitlines() if line[0] not in "# "]
    assert sorted(done.stdout.lower().split()) == sorted(wanted)
