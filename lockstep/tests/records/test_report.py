"""report.html: one file that needs nothing else, and shows what it is given as it is."""

import dataclasses
import html
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lockstep.config.recipe import overrides_of, resolve
from lockstep.data.batches import Blocks
from lockstep.ground import home
from lockstep.ground.place import Place
from lockstep.ground.watch import Row, Watch
from lockstep.loading import predictor
from lockstep.records import trace
from lockstep.records.report import Answers, Mistake, page, worst_mistakes
from lockstep.records.run import Run
from lockstep.run.ending import commands, settings
from lockstep.run.keeping import open_data
from lockstep.run.making import evaluation_of
from lockstep.tests.conftest import experiment
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
        "data_version": "digits@1",
        "metrics": {"validation": found, "test": found},
        "monitor": "accuracy",
    }
    parts = {"run": "<i>run</i>", "identity": {"digest": "e" * 64}, "results": results}
    timing = {"finished": "2026-01-02T03:04:05Z", "seconds": 1234.5, "workers": 2}
    git = {"commit": "c" * 40, "dirty": True}
    facts = {"drift": list(drift), "notebook": False, "git": git}
    more = {"environment": facts, "timing": timing | {"resumed_at_step": 20}}
    return json.dumps(parts | more).encode()


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
        settings=settings(experiment()),
        commands=commands(experiment(), finished_run.name),
    )
    assert again == (finished_run.folder / "report.html").read_bytes()
    assert made(WITH_PICTURE, WITH_TEXT) == made(WITH_PICTURE, WITH_TEXT)


def test_a_report_says_what_the_run_was_made_of_and_when(finished_run: Run) -> None:
    shown = Loaded((finished_run.folder / "report.html").read_bytes()).text
    kept = finished_run.finished_receipt()
    git, timing = kept["environment"]["git"], kept["timing"]
    changes = ", with uncommitted changes" if git["dirty"] else ""
    expected = [
        f"data version{kept['results']['data_version']}",
        f"commit{git['commit'] or 'none, trained outside a checkout'}{changes}finished",
        f"finished{timing['finished']}",
        f"duration{timing['seconds']:,.1f} s with 1 worker",
        "data.namedigits",
        f"training.epochs{experiment().training.epochs}10",
    ]
    assert [line for line in expected if line not in shown] == []
    resumed = "duration1,234.5 s with 2 workers, from step 20, where it resumed"
    assert resumed in Loaded(made()).text


def test_the_command_in_a_report_makes_the_experiment_of_the_run(finished_run: Run) -> None:
    content = (finished_run.folder / "report.html").read_text()
    command, again = map(html.unescape, re.findall("<pre>(.*?)</pre>", content)[:2])
    assert again == f"invoke reproduce {finished_run.name}"
    words = [word for word in shlex.split(command) if "LOCKSTEP_PROJECT=" not in word]
    assert words[:2] == ["invoke", "train"]
    options = list(zip(words[2::2], words[3::2], strict=True))
    named = dict(options)
    made_again, _ = resolve(
        named["--model"],
        home.here().recipe(named["--model"], named["--recipe"]),
        home.here().config_of(named["--model"]),
        seed=int(named["--seed"]),
        overrides=[value for option, value in options if option == "--set"],
    )
    recorded = dict(finished_run.experiment())
    del recorded["package"]
    assert made_again.as_dict() == recorded


@pytest.mark.parametrize(
    "override",
    [
        "training.lr=0.00001",
        "training.lr=1e-12",
        "training.monitor='12'",
        "training.monitor=a b",
        "training.monitor='null'",
        "training.monitor='x: [y'",
        "start.parameters=['a*', 'b.c']",
        "start.rename={old.: new.}",
        "data.drop_last=true",
        "accept.size_mb=<= 3",
        "data.limit=7",
    ],
)
def test_overrides_of_an_experiment_are_read_as_its_values(override: str) -> None:
    here = home.here()
    path, config = here.recipe("digits", "base"), here.config_of("digits")
    one, _ = resolve("digits", path, config, overrides=[override, "start.weights=w.safetensors"])
    written = overrides_of(one, path)
    assert len(written) == 2
    assert resolve("digits", path, config, overrides=written)[0] == one


def test_a_recipe_that_is_gone_leaves_the_command_from_the_recorded_source() -> None:
    gone = dataclasses.replace(experiment(), recipe="gone")
    assert commands(gone, "digits-gone-s42") == ["invoke reproduce digits-gone-s42"]


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
