"""From a finished run of each kind to its answers: on the command line, in Python, in a bundle."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lockstep import loading
from lockstep.answers import golden
from lockstep.ground import home
from lockstep.ground.errors import DataError
from lockstep.model import loader_of
from lockstep.publishing.bundle import made
from lockstep.records.checkout import package_of
from lockstep.records.run import Run
from lockstep.tests.answers.conftest import kinds  # noqa: F401
from lockstep.tests.answers.kinds import EXAMPLES, Kinds, trained
from lockstep.tests.conftest import Call
from lockstep.tests.publishing.test_bundle import served

Finished = Callable[[str], Run]


@pytest.fixture
def finished(
    kinds: Kinds,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Finished:
    """Train a model of a kind, in whose project one works from now on."""

    def train(name: str) -> Run:
        project = kinds.project(name)
        folder = project.home.folder.parent
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{project.package}"\nversion = "1.0"\n'
        )
        run = trained(project, name, tmp_path / "runs")
        monkeypatch.setattr(home, "ROOT", folder)  # whose pyproject.toml says the version
        return run

    return train


@pytest.mark.slow
def test_prices_are_predicted_for_rows_of_a_file_and_for_numbers(
    call: Call, finished: Finished, tmp_path: Path
) -> None:
    run = str(finished("numbers").folder)
    rows = EXAMPLES["numbers"].inputs[:2]
    table = tmp_path / "houses.csv"
    lines = [f"{age!r},0,{rooms!r},{area!r}" for rooms, area, age in rows.tolist()]
    table.write_text("\n".join(["age,price,rooms,area", *lines]))
    code, out, _ = call("predict", run, str(table), "--json")
    answers = json.loads(out)
    predictor = loading.predictor(Run(Path(run)))
    assert (code, answers) == (0, predictor.answers(list(rows)))
    words = ",".join(map(repr, rows[0].tolist()))
    assert call("predict", run, f"[{words}]")[1] == f"[{words}]: price {answers[0]['price']:.6g}\n"
    assert call("predict", run, str(table))[1].splitlines() == [
        f"houses.csv, row {number}: price {answer['price']:.6g}"
        for number, answer in enumerate(answers, 1)
    ]
    written = tmp_path / "prices.csv"
    assert call("predict", run, str(table), "--output", str(written))[1].endswith(": 2 answers\n")
    found = list(csv.DictReader(io.StringIO(written.read_text())))
    assert [float(row["price"]) for row in found] == [answer["price"] for answer in answers]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("1,2", "numbers: found 2, expected 3 numbers (rooms, area, age)."),
        ("1,2,x", "1,2,x: row 1, age: found 'x', expected a number."),
        ("none.csv", "none.csv: No such file or directory, expected a file of numbers."),
        ("{}", "numbers: rooms not found, expected rooms, area, age (found none)."),
        ("[1, 2", "[1, 2: body: not readable as JSON ("),
    ],
)
def test_words_that_are_no_numbers_are_refused_in_one_line(
    kinds: Kinds,  # noqa: F811
    word: str,
    message: str,
) -> None:
    predictor = kinds.predictor("numbers")
    with pytest.raises(DataError) as error:
        predictor.predict([one for _, one in predictor.named_inputs(word)])
    assert str(error.value).startswith(message)


@pytest.mark.slow
def test_a_mask_is_written_as_a_picture_of_class_numbers(
    call: Call, finished: Finished, tmp_path: Path
) -> None:
    run = str(finished("mask").folder)
    picture = str(tmp_path / "grey.png")
    Image.fromarray(EXAMPLES["mask"].inputs[0]).save(picture)
    (answer,) = json.loads(call("predict", run, picture, "--json")[1])
    path = tmp_path / "mask.png"
    assert call("predict", run, picture, "--output", str(path))[1] == f"{path}: 1 mask\n"
    assert np.asarray(Image.open(path)).tolist() == answer["mask"]
    shares = sorted(answer["shares"].items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares if share)
    assert call("predict", run, picture)[1] == f"{picture}: {shown}\n"
    code, _, err = call("predict", run, picture, "--output", str(tmp_path / "mask.csv"))
    assert (code, "expected a .png for one" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_of_each_kind_answers_alike_in_python_and_from_its_bundle(
    finished: Finished, tmp_path: Path, name: str
) -> None:
    run = finished(name)
    package = package_of(run)
    predictor = loader_of(package)("brought", run.folder)
    inputs = [predictor.as_input(row) for row in EXAMPLES[name].inputs[:3]]
    answers = predictor.predict(inputs)
    assert json.loads((run.folder / "golden.json").read_bytes())["answers"][:3] in (answers, [])
    lists = [one if isinstance(one, str) else golden.as_lists(one) for one in inputs]
    requests = [("application/json", json.dumps(lists).encode())]
    expected: list[tuple[str, Any]] = [("application/json", answers)]
    if name == "numbers":
        named = [dict(zip(("rooms", "area", "age"), row, strict=True)) for row in lists]
        table = "\n".join(
            ["age,rooms,area", *(f"{c!r},{a!r},{b!r}" for a, b, c in map(tuple, lists))]
        )
        plain = "\n".join(",".join(map(repr, row)) for row in lists)
        requests += [("application/json", json.dumps(named).encode())]
        requests += [("text/csv", table.encode()), ("text/csv", plain.encode())]
        expected *= 4
        requests += [("text/csv", b"age\n1\n"), ("image/png", b"x"), ("text/plain", b"x")]
        refusal = "input: found a picture or a text, expected 3 numbers (rooms, area, age)."
        missing = "column rooms not found, expected rooms, area, age (it has age)."
        expected += [("ValueError", missing), ("ValueError", refusal), ("ValueError", refusal)]
    if name == "vector":
        np.save(file := io.BytesIO(), np.array(lists, np.float32))
        requests, expected = [*requests, ("application/x-npy", file.getvalue())], expected * 2
    assert served(made(run), tmp_path, *requests) == expected


@pytest.mark.slow
def test_onnx_serves_a_run_of_numbers_near_the_bits_of_training(finished: Finished) -> None:
    run = finished("numbers")
    by_onnx = loading.served(run, onnx=True)
    rows = list(EXAMPLES["numbers"].inputs[:3])
    wanted = [answer["price"] for answer in loading.predictor(run).answers(rows)]
    found = [answer["price"] for answer in by_onnx.predictor.answers(rows)]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert by_onnx.about["golden"] == "outputs within 0.0001: not the bits of training"
