"""report.html: one file that needs nothing else, and shows what it is given as it is."""

import html
import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from lockstep.data.batches import Blocks
from lockstep.ground import home
from lockstep.ground.place import Place
from lockstep.ground.watch import Row, Watch
from lockstep.loading import predictor
from lockstep.records import trace
from lockstep.records.report import Answers, Mistake, page, worst_mistakes
from lockstep.records.run import Run
from lockstep.run.keeping import open_data
from lockstep.run.making import evaluation_of
from lockstep.training.evaluation import measure
from lockstep.training.metrics import classification

LABELS = ["T-shirt/top", "<b>bold</b>", "$\\oops$ & co", "衣", "Ankle boot"]
ROWS: list[Row] = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "better": True,
        "rate": 0.1,
        "train": {"loss": 1 / epoch},
        "validation": {"loss": 2 / epoch, "accuracy": 1 - 1 / epoch},
    }
    for epoch in (1, 2, 3)
]


class Loaded(HTMLParser):
    """What a page would have a browser load or run, and the text it shows."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        loading = ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
        self.addresses += [value or "" for name, value in attrs if name in loading]

    def handle_data(self, data: str) -> None:
        self.text += data


def receipt(drift: tuple[str, ...] = ()) -> bytes:
    """The receipt of a run on five awkward labels."""
    answers = np.random.default_rng(0).dirichlet([1] * 5, 60).astype(np.float32)
    found = classification(answers, np.arange(60) % 5)
    results = {
        "steps": 30,
        "epochs": 3,
        "kept_step": 20,
        "weights_sha256": "f" * 64,
        "labels": LABELS,
        "metrics": {"validation": found, "test": found},
        "monitor": "accuracy",
    }
    parts = {"run": "<i>run</i>", "identity": {"digest": "e" * 64}, "results": results}
    return json.dumps(parts | {"environment": {"drift": list(drift), "notebook": False}}).encode()


def made(*mistakes: Mistake, drift: tuple[str, ...] = ()) -> bytes:
    steps = np.zeros(30, trace.RECORD)
    steps["loss"] = 1 / np.arange(1, 31)
    return page(receipt(drift), ROWS, steps, mistakes)


PICTURE = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
WITH_PICTURE = Mistake(5, PICTURE, "Ankle boot", "T-shirt/top", 0.98)
WITH_TEXT = Mistake(6, "<script>alert('x')</script> {run}", "衣", "<b>bold</b>", 0.5)


def test_a_report_is_one_file_that_loads_nothing(finished_run: Run) -> None:
    for content in (
        made(WITH_PICTURE, WITH_TEXT),
        (finished_run.folder / "report.html").read_bytes(),
    ):
        loaded = Loaded(content)
        outside = [a for a in loaded.addresses if not a.startswith(("#", "data:image/png;base64,"))]
        assert (outside, b"@import" in content, b"url(http" in content) == ([], False, False)
        assert loaded.tags & {"script", "link", "iframe", "object", "embed", "base"} == set()
        assert any(address.startswith("data:image/png") for address in loaded.addresses)


def test_the_report_of_a_run_follows_from_its_files_to_the_byte(
    finished_run: Run, place: Place
) -> None:
    loaded = predictor(finished_run)
    data = open_data("digits", place, Watch())
    split = data.splits["test"]
    parts = home.here().module("digits")
    evaluation = evaluation_of(parts, parts.Config(), data)
    found = measure(loaded.model, Blocks(split, loaded.preprocess, 500), evaluation)
    names = [str(digit) for digit in range(10)]
    answers = Answers(
        "class",
        names,
        found.outputs,
        found.target,
        lambda row: loaded.preprocess.show(split.inputs[row]),
    )
    again = page(
        (finished_run.folder / "receipt.json").read_bytes(),
        finished_run.metrics(),
        trace.read(finished_run.folder / "trace.bin"),
        answers.mistakes(),
    )
    assert again == (finished_run.folder / "report.html").read_bytes()
    assert made(WITH_PICTURE, WITH_TEXT) == made(WITH_PICTURE, WITH_TEXT)


def test_every_class_is_named_in_the_table_and_on_both_sides_of_the_confusions() -> None:
    content = made().decode()
    assert {name: content.count(f"<td>{html.escape(name)}</td>") for name in LABELS} == (
        dict.fromkeys(LABELS, 1)
    )
    drawn = content.partition("What was taken for what")[2].partition("Worst mistakes")[0]
    shown = Loaded(drawn.encode()).text
    assert {name: shown.count(name) for name in LABELS} == dict.fromkeys(LABELS, 2)


def test_what_comes_from_outside_is_shown_not_run() -> None:
    content = made(WITH_TEXT, drift=("numpy: locked <1>, installed 2",))
    shown = Loaded(content).text
    assert [tag in content for tag in (b"<script", b"<i>run", b"<b>bold", b"<1>")] == [False] * 4
    assert "<script>alert('x')</script> {run}" in shown
    assert "Packages not as locked: numpy: locked <1>, installed 2" in shown
    assert "<b>bold</b> 50%is 衣test row 6" in shown


def test_a_run_without_mistakes_or_drift_says_nothing_of_them() -> None:
    shown = Loaded(made()).text
    assert ("None on the test split." in shown, "not as locked" in shown) == (True, False)


def test_mistakes_are_the_wrong_answers_surest_first() -> None:
    answers = np.random.default_rng(1).dirichlet([1] * 5, 200).astype(np.float32)
    labels = np.arange(200) % 5
    found = worst_mistakes(answers, labels, LABELS, lambda row: f"row {row}", most=12)
    wrong = [row for row in range(200) if answers[row].argmax() != labels[row]]
    surest = sorted(wrong, key=lambda row: -answers[row].max())[:12]
    told = [(m.row, m.shown, m.label, m.predicted, m.confidence) for m in found]
    assert told == [
        (
            row,
            f"row {row}",
            LABELS[row % 5],
            LABELS[answers[row].argmax()],
            float(answers[row].max()),
        )
        for row in surest
    ]


def test_equally_sure_mistakes_stand_in_the_order_of_the_split() -> None:
    answers = np.tile(np.array([0.2, 0.8], np.float32), (4, 1))
    found = worst_mistakes(answers, np.array([0, 1, 0, 0]), ["no", "yes"], str)
    assert [(mistake.row, mistake.label, mistake.predicted) for mistake in found] == [
        (0, "no", "yes"),
        (2, "no", "yes"),
        (3, "no", "yes"),
    ]
