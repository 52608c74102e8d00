"""The tags model: what a classifier of texts must do, and what must not change its mind."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.examples.models.tags import Config, Predictor, Preprocess
from lockstep.examples.models.tags.preprocess import terms, text_of
from lockstep.ground.errors import DataError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import command, full_experiment

VISION, LANGUAGE, OPERATIONS, OTHER = (
    "computer-vision",
    "natural-language-processing",
    "mlops",
    "other",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Run:
    """tags/base, trained to its end."""
    place = Place(tmp_path_factory.mktemp("tags"), data_folder)
    found = run_experiment(full_experiment("tags/base"), place, Watch())
    assert found
    return found


@pytest.fixture(scope="module")
def model(run: Run) -> Predictor:
    return Predictor.load(run.folder)


def labels(model: Predictor, *texts: str) -> list[str]:
    return [answer["label"] for answer in model.predict(texts)]


# Minimum functionality: what nobody could get wrong.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Object detection in videos with YOLO", VISION),
        ("Image segmentation with a convolutional network", VISION),
        ("GAN that generates faces", VISION),
        ("Text classification with BERT", LANGUAGE),
        ("Machine translation with attention\nA tutorial on sequence to sequence models", LANGUAGE),
        ("Question answering and named entity recognition", LANGUAGE),
        ("Deploy and monitor models in production with Docker", OPERATIONS),
        ("Version control for machine learning data and pipelines", OPERATIONS),
        ("Graph neural network for node classification", OTHER),
        ("Reinforcement learning agents that play games", OTHER),
    ],
)
def test_a_plain_text_has_its_tag(model: Predictor, text: str, label: str) -> None:
    assert labels(model, text) == [label]


# Invariance: what must not matter.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Object detection with YOLO", "OBJECT DETECTION WITH yolo"),
        ("Object detection with YOLO", "Objet detecton with YOLO"),
        ("Object detection with YOLO", "  Object detection, with (YOLO)!  "),
        ("Object detection with YOLO", "Recognising objects with YOLO"),
        ("Text classification with BERT", "Txt clasification with BERT"),
        ("Text classification with BERT", "Document classifier, with BERT"),
        ("Text classification with BERT", "ＴＥＸＴ classification with BERT 🤖"),
        ("Faces in pictures with OpenCV", "Faces in photos with open cv"),
    ],
)
def test_case_typos_signs_and_synonyms_do_not_change_the_tag(
    model: Predictor, text: str, same: str
) -> None:
    assert labels(model, same) == labels(model, text)


@pytest.mark.slow
def test_capitals_and_signs_do_not_change_a_single_bit(model: Predictor) -> None:
    plain, loud = model.predict(["graph learning in practice", "GRAPH: learning, in PRACTICE!!"])
    assert plain == loud


# Direction: what must matter, and which way.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "more", "label"),
    [
        ("A new network architecture", "for image segmentation", VISION),
        ("A new network architecture", "for text summarization", LANGUAGE),
        ("A tool for teams", "to deploy and monitor models in production", OPERATIONS),
        ("Attention in networks", "on graphs and nodes", OTHER),
    ],
)
def test_what_speaks_for_a_tag_makes_it_surer(
    model: Predictor, text: str, more: str, label: str
) -> None:
    before, after = model.predict([text, f"{text} {more}"])
    assert after["confidences"][label] > before["confidences"][label]


# The whole of it.


@pytest.mark.slow
def test_the_command_line_takes_texts_and_tables(run: Run, tmp_path: Path) -> None:
    table, output = tmp_path / "projects.csv", tmp_path / "answers.csv"
    table.write_text('id,title,description\n1,YOLO,"Objects in\nvideos"\n2,BERT,Text\n')
    words = ("predict", str(run.folder), "Text classification", str(table))
    told, written = command(*words), command(*words, "--output", str(output))
    assert [line.rpartition(" (")[0] for line in told.stdout.splitlines()] == [
        f"Text classification: {LANGUAGE}",
        f"projects.csv, row 1: {VISION}",
        f"projects.csv, row 2: {LANGUAGE}",
    ]
    assert (written.returncode, written.stdout) == (0, f"{output}: 3 answers\n")
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [(row["input"], row["label"]) for row in rows] == [
        ("Text classification", LANGUAGE),
        ("projects.csv, row 1", VISION),
        ("projects.csv, row 2", LANGUAGE),
    ]
    sure = Predictor.load(run.folder).predict(["Text classification"])[0]["confidence"]
    assert float(rows[0]["confidence"]) == sure


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no readable CSV file in UTF-8 (No such file or directory)"),
        (b"title,text\na,b\n", "found no column description, expected title and description"),
        (b"title,description\n\xff,b\n", "no readable CSV file in UTF-8 ("),
    ],
)
def test_a_table_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "a.csv"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        Predictor.given(object.__new__(Predictor), str(path))
    assert str(error.value).startswith(f"{path}: {told}")


def table(text: str) -> Iterator[str]:
    """The texts of a table, as a Predictor gives them that knows of no weights."""
    return Predictor.table(object.__new__(Predictor), text)


def test_a_table_has_its_columns_anywhere_and_rows_may_be_short_blank_or_of_many_lines() -> None:
    text = '\r\nid,description,title\r\n1,"Objects in\nvideos",YOLO,more\n\n2,Text\r\n3\n'
    assert list(table(text)) == ["YOLO\nObjects in videos", "\nText", "\n"]
    with pytest.raises(DataError, match=r"^found no column title, expected title and description"):
        next(table(""))


def test_a_table_is_read_no_further_than_somebody_asks() -> None:
    long = "x," * 200_000
    texts = table(f"title,description\na,b\nc,d\n{long}\n")
    assert [next(texts), next(texts)] == ["a\nb", "c\nd"]
    told = "found a row of over 262,144 characters, expected less."
    for refused in (texts, table(f"title,description,{long}\na,b\n"), table('"a\n",' * 100_000)):
        with pytest.raises(DataError) as error:
            next(refused)
        assert str(error.value) == told


@pytest.mark.parametrize("wrong", ["", " \n", 3, None, ["a"]])
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"^text: found .*, expected words"):
        Predictor.read(object.__new__(Predictor), wrong)


def test_a_word_with_humps_is_itself_and_its_parts() -> None:
    assert terms("An OpenCV demo")["words"] == ["an", "open", "cv", "demo", "opencv"]


def test_pieces_are_three_to_five_letters_of_a_padded_word() -> None:
    assert terms("graph")["pieces"] == [
        *("# gr", "#gra", "#rap", "#aph", "#ph "),
        *("# gra", "#grap", "#raph", "#aph "),
        *("# grap", "#graph", "#raph "),
    ]


def test_weights_are_counts_times_rarity_scaled_to_length_10() -> None:
    texts = ["red red blue", "red green", "red green", "blue"]
    raw = np.array([list(text.encode().ljust(20, b"\0")) for text in texts], np.uint8)
    fitted = Preprocess.fit(Config(vocabulary=200), raw, ["a", "b"])
    found = Counter({t: int(n) for t, n in zip(("red", "green", "blue"), (3, 2, 2), strict=True)})
    rarity = {word: 1 + np.log(5 / count) for word, count in found.items()}
    assert {w: fitted.rarity[w] for w in found} == pytest.approx(rarity)
    columns = [list(fitted.rarity).index(word) for word in ("red", "blue")]
    wanted = np.array([(1 + np.log(2)) * rarity["red"], rarity["blue"]])
    inputs = fitted(raw)
    assert inputs[0, columns].numpy() == pytest.approx(10 * wanted / np.linalg.norm(wanted))
    assert text_of(raw[1]) == "red green"


def test_a_text_of_unknown_words_is_all_zeros() -> None:
    raw = np.frombuffer(b"zzz qqq\0", np.uint8).reshape(1, -1)
    inputs = Preprocess(Config(vocabulary=8), ["a", "b"], {"red": 1.0})(raw)
    assert (inputs.shape, float(inputs.abs().sum())) == ((1, 8), 0.0)
