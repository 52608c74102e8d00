"""Models of each kind: what they take, what they give, and every bit of it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lockstep.answers import golden, reading
from lockstep.answers.giving import answers
from lockstep.answers.inputs import Numbers, Picture, Takes, Tensor, Text
from lockstep.ground.errors import BundleError, DataError, ModelError
from lockstep.tests.answers.kinds import EXAMPLES, Kinds, trained
from lockstep.tests.conftest import mostly_slow

HOUSE = Numbers(("rooms", "area"))


def npy(array: Any) -> bytes:
    """A file in NumPy's format."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def refused(call: Any, *words: Any) -> str:
    """The one line in which an input is refused."""
    with pytest.raises(DataError) as error:
        list(call(*words))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_gives_what_the_kind_of_its_data_set_says(kinds: Kinds) -> None:
    keys = {
        "numbers": ["price"],
        "labels": ["confidences", "labels"],
        "mask": ["mask", "shares"],
        "text": ["text"],
        "vector": ["vector"],
    }
    for name, expected in keys.items():
        predictor = kinds.predictor(name)
        (answer,) = predictor.predict([predictor.as_input(EXAMPLES[name].inputs[0])])
        assert (name, sorted(answer)) == (name, expected)
        assert json.loads(json.dumps(answer)) == answer


def test_a_price_is_what_the_model_says_in_the_units_of_the_data(
    kinds: Kinds,
) -> None:
    predictor = kinds.predictor("numbers")
    with torch.no_grad():
        predictor.model.layer.weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
        predictor.model.layer.bias.zero_()
    assert predictor.predict([[1, 0.5, 0.25]]) == [{"price": 250_000.0}]
    assert predictor.takes == Numbers(("rooms", "area", "age"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_answers_of_each_kind_have_every_bit(kinds: Kinds, name: str) -> None:
    predictor = kinds.predictor(name)
    assert predictor.golden
    assert golden.difference(predictor.golden, predictor) == ""
    if name == "text":
        predictor.model.layer.weight.data.neg_()
    else:  # the last bit of one number
        bias = predictor.model.layer.bias.data
        bias[0] = torch.nextafter(bias[0] + 0, bias[0] + 1)
        bias.mul_(1 + 2**-20)
    assert golden.difference(predictor.golden, predictor).startswith("example ")


@pytest.mark.parametrize("name", EXAMPLES)
def test_answers_of_each_kind_are_the_same_alone_and_among_others(
    kinds: Kinds,
    name: str,
) -> None:
    predictor, rows = kinds.predictor(name), list(EXAMPLES[name].inputs[:40])
    alone = [predictor.answers([row])[0] for row in rows]
    for count in (2, 3, 9, 32, 33, 40):
        assert predictor.answers(rows[:count]) == alone[:count]
        assert predictor.answers(rows[:count][::-1]) == alone[:count][::-1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_of_any_kind_whose_rows_know_of_each_other_is_refused(
    kinds: Kinds,
    name: str,
) -> None:
    predictor, rows = kinds.predictor(name), list(EXAMPLES[name].inputs[:8])
    forward = predictor.model.forward

    def careless(inputs: Any) -> torch.Tensor:
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        found: torch.Tensor = (
            forward(inputs)
            * (1 + 5 * torch.arange(len(first)).roll(3))
            .view(-1, *[1] * (forward(inputs).dim() - 1))
            .sin()
        )
        return found

    predictor.model.forward = careless
    with pytest.raises(ModelError, match="depend on what stands beside an input"):
        predictor.narrow(rows)


def test_labels_apply_from_the_threshold_on() -> None:
    outputs = torch.tensor([[0.5, 0.25, 0.75], [0.0, 0.125, 0.25]])
    found = answers("labels", outputs, ["a", "b", "c"], 0.5)
    assert [one["labels"] for one in found] == [["a", "c"], []]
    assert found[0]["confidences"] == {"a": 0.5, "b": 0.25, "c": 0.75}


def test_a_mask_has_the_likeliest_class_of_each_pixel_and_their_shares() -> None:
    outputs = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.2]], [[0.0, 0.7]]]])
    assert answers("mask", outputs, ["sky", "tree", "lawn"], 0.5) == [
        {"mask": [[0, 2]], "shares": {"sky": 0.5, "tree": 0.0, "lawn": 0.5}}
    ]


def test_numbers_that_json_does_not_have_are_null() -> None:
    outputs = torch.tensor([[float("nan"), 1.0], [float("inf"), -2.5]])
    assert answers("values", outputs, ["a", "b"], 0.5) == [
        {"a": None, "b": 1.0},
        {"a": None, "b": -2.5},
    ]
    assert answers("vector", outputs, [], 0.5)[0] == {"vector": [None, 1.0]}
    assert answers("values", outputs[:, 1], ["b"], 0.5) == [{"b": 1.0}, {"b": -2.5}]


@pytest.mark.parametrize(
    ("gives", "shape", "names"),
    [("label", (2, 1), 3), ("values", (2, 3), 1), ("labels", (2,), 2), ("mask", (2, 3), 3)],
)
def test_outputs_that_do_not_fit_the_names_are_refused(
    gives: Any, shape: tuple[int, ...], names: int
) -> None:
    with pytest.raises(ModelError) as error:
        answers(gives, torch.zeros(shape), [str(number) for number in range(names)], 0.5)
    assert str(error.value).startswith(f"Model: found outputs of shape {shape}, expected (rows, ")


def test_an_exception_in_read_is_a_mistake_of_the_input(kinds: Kinds) -> None:
    read = EXAMPLES["numbers"].files["inference.py"] + (
        "\n    def read(self, source):\n        return 1 / 0 if source == 0 else self.nothing\n"
    )
    predictor = kinds.predictor("numbers", inference=read)
    expected = "expected 3 numbers (rooms, area, age)."
    for source, reason in ((0, "ZeroDivisionError: division"), (1, "AttributeError: 'Predictor'")):
        message = refused(predictor.predict, [source])
        assert message.startswith(f"numbers: not readable ({reason}")
        assert message.endswith(expected)


def test_numbers_come_as_a_list_by_name_as_an_array_or_as_a_table() -> None:
    wanted = np.array([3, 0.5], np.float32)
    for source in ([3, 0.5], {"area": 0.5, "price": 9, "rooms": 3}, wanted, (np.float32(3), 0.5)):
        assert reading.example(HOUSE, source).tobytes() == wanted.tobytes()
    for table in ("area,price,rooms\n0.5,,3\n\n", "3,0.5\n", " rooms , area\r\n3,0.5\r\n"):
        assert list(reading.table(HOUSE, table)) == [[3.0, 0.5]]
    assert list(reading.table(Numbers(), "3,0.5\n4,1e-3\n")) == [[3.0, 0.5], [4.0, 0.001]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1], "numbers: found 1, expected 2 numbers (rooms, area)."),
        (
            {"rooms": 1, "aera": 2},
            "numbers: area not found, expected rooms, area (found rooms, aera).",
        ),
        ([1, True], "area: found True, expected a finite number of 32 bits."),
        ([1, "2"], "area: found '2', expected a finite number of 32 bits."),
        ([float("nan"), 1], "rooms: found nan, expected a finite number of 32 bits."),
        ([10**400, 1], "rooms: found 1" + "0" * 39 + ", expected a finite number of 32 bits."),
        (None, "numbers: found None, expected 2 numbers (rooms, area)."),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(source: Any, message: str) -> None:
    assert refused(reading.example, HOUSE, source) == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "column rooms not found, expected rooms, area (it is empty)."),
        (
            "rooms,price\n1,2\n",
            "column area not found, expected rooms, area (it has rooms, price).",
        ),
        ("rooms,area\n1,2\n3\n", "row 2: found 1 cells, expected 2 as in the head."),
        ("rooms,area\n1,2\n3,x\n", "row 2, area: found 'x', expected a number."),
        ("1,2\n3,\n", "row 2, area: found '', expected a number."),
        ("rooms,area\n1,1_0\n", "row 1, area: found '1_0', expected a number."),
    ],
)
def test_a_table_is_refused_with_row_and_column(table: str, message: str) -> None:
    assert refused(reading.table, HOUSE, table) == message


def test_tensors_come_as_nested_lists_arrays_or_files(tmp_path: Path) -> None:
    takes, values = Tensor((2, 2), "uint8"), [[1, 2], [3, 255]]
    wanted = np.array(values, np.uint8)
    (tmp_path / "one.npy").write_bytes(npy(wanted.astype(">f8")))
    for source in (
        values,
        wanted,
        torch.tensor(values),
        tmp_path / "one.npy",
        npy(wanted.T.copy().T),
    ):
        found = reading.example(takes, source)
        assert (str(found.dtype), found.tolist()) == ("uint8", values)
    named = reading.inputs_of_word(takes, str(tmp_path / "one.npy"))
    assert [(name, one.tolist()) for name, one in named] == [(str(tmp_path / "one.npy"), values)]
    (tmp_path / "two.npy").write_bytes(npy(np.stack((wanted, wanted))))
    names = [name for name, _ in reading.inputs_of_word(takes, str(tmp_path / "two.npy"))]
    assert names == ["two.npy, row 1", "two.npy, row 2"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([[1, 2]], "tensor: found shape (1, 2), expected (2, 2)."),
        ([[1, 2], [3, 256]], "tensor: found values that are not finite numbers of type uint8."),
        ([[1, 2], [3, 0.5]], "tensor: found values that are not finite numbers of type uint8."),
        ([["a", "b"], ["c", "d"]], "tensor: found values of type <U1, expected uint8."),
        ([[1, 2], [3]], "tensor: found no array of numbers ("),
        (b"\x93NUMPY", "array: not readable as NumPy's format ("),
        (npy(np.zeros((2, 2)))[:-1], "array: not readable as NumPy's format ("),
        ("none.npy", "tensor: none.npy: no readable file ("),
    ],
)
def test_what_is_no_tensor_is_refused(source: Any, message: str) -> None:
    assert refused(reading.example, Tensor((2, 2), "uint8"), source).startswith(message)


def test_an_array_that_would_run_code_or_take_all_memory_is_refused() -> None:
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 2, 2), }"
    large = b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head.encode() + b"\n"
    for content in (objects.getvalue(), large):
        message = refused(reading.inputs_of_npy, Tensor((2, 2)), content)
        assert message.startswith("array: not readable as NumPy's format (")


def test_a_picture_is_read_in_colour_or_grey_as_the_model_takes_it() -> None:
    red = Image.new("RGB", (4, 4), (200, 10, 30))
    file = io.BytesIO()
    red.save(file, "PNG")
    for source in (red, file.getvalue(), np.asarray(red), np.asarray(red).astype(np.float32) / 255):
        colours = reading.example(Picture(2, 2, colour=True), source)
        assert (colours.shape, colours[0, 0].tolist()) == ((2, 2, 3), [200, 10, 30])
        assert reading.example(Picture(2, 2), source)[0, 0] == 69
    grey = np.full((4, 4), 7, np.uint8)
    assert reading.example(Picture(4, 4, colour=True), grey)[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("takes", "content", "count"),
    [
        (HOUSE, [1, 2], 1),
        (HOUSE, {"rooms": 1, "area": 2}, 1),
        (HOUSE, [[1, 2], {"rooms": 1, "area": 2}], 2),
        (Tensor((2,)), [1, 2], 1),
        (Tensor((2,)), [[1, 2]], 1),
        (Tensor((1, 2)), [[[1, 2]], [[3, 4]]], 2),
        (Picture(2, 2, colour=True), [[[1, 2, 3]] * 2] * 2, 1),
        (Picture(2, 2, colour=True), [[[[1, 2, 3]] * 2] * 2], 1),
        (Picture(2, 2), [[1, 2], [3, 4]], 1),
        (Picture(2, 2), [[[1, 2], [3, 4]]] * 3, 3),
        (Text(9), "one", 1),
        (Text(9), ["one", "two"], 2),
    ],
)
def test_json_holds_one_input_or_several(takes: Takes, content: Any, count: int) -> None:
    assert len(reading.inputs_of_json(takes, content)) == count
    assert reading.inputs_of_json(takes, []) == []


@pytest.mark.parametrize("takes", [HOUSE, Tensor((2, 2)), Picture(2, 2), Text(9)])
@pytest.mark.parametrize("content", [7, None, True, [[["a"]]], {"a": [1]}, [None]])
def test_other_json_is_refused(takes: Takes, content: Any) -> None:
    def read(content: Any) -> list[Any]:
        return [reading.example(takes, one) for one in reading.inputs_of_json(takes, content)]

    assert refused(read, content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    mostly_slow(
        [
            ('state["labels"]', 'state["names"]', "KeyError: 'names'"),
            (
                '"labels": self.labels',
                '"labels": ["one", "two"]',
                "RuntimeError: Error(s) in loading",
            ),
        ]
    ),
)
def test_a_predictor_that_cannot_answer_is_refused_before_the_first_step(
    kinds: Kinds, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    whole = EXAMPLES["numbers"].files["preprocess.py"]
    project = kinds.project("numbers", preprocess=whole.replace(old, new))
    with pytest.raises(ModelError) as error:
        trained(project, "numbers", tmp_path / "runs")
    message = f"brought: Predictor cannot answer an example of the test split ({reason}"
    assert str(error.value).startswith(message)
    assert list((tmp_path / "runs").glob("brought*")) == []


@pytest.mark.slow  # the export takes some seconds
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_of_each_kind_is_exported_to_onnx_or_refused_in_one_line(
    kinds: Kinds,
    name: str,
) -> None:
    from lockstep.publishing import onnx

    predictor, rows = kinds.predictor(name), list(EXAMPLES[name].inputs[:8])
    if name == "text":
        with pytest.raises(BundleError, match="found a model that generates texts step by step"):
            onnx.exported(predictor, rows)
        return
    expected = predictor.outputs(rows)
    content, facts = onnx.exported(predictor, rows)
    onnx.compute(predictor, onnx.Session(content))
    predictor.narrow(rows)
    assert torch.allclose(predictor.outputs(rows), expected, rtol=1e-4, atol=1e-4)
    shapes = {
        "numbers": ["n", 3],
        "labels": ["n", 108],
        "mask": ["n", 1, 6, 6],
        "vector": {"left": ["n", 3], "right": ["n", 3]},
    }
    assert (facts["input"], facts["examples"]) == (shapes[name], 8)


@pytest.mark.slow
def test_a_model_that_onnx_cannot_hold_is_refused_in_one_line(kinds: Kinds) -> None:
    from lockstep.publishing import onnx

    whole = EXAMPLES["vector"].files["model.py"]
    inverse = "self.layer(torch.linalg.pinv(inputs['left'][:, :, None]).flatten(1).repeat(1, 2))"
    start = whole.index("self.layer(torch.cat")
    end = whole.index("\n", start)
    predictor = kinds.predictor("vector", model=whole[:start] + inverse + whole[end:])
    with pytest.raises(BundleError) as error:
        onnx.exported(predictor, list(EXAMPLES["vector"].inputs[:8]))
    message = str(error.value)
    assert message.startswith("model.onnx: this model cannot be exported (")
    assert (message.endswith("); omit --onnx."), message.count("\n")) == (True, 0)
