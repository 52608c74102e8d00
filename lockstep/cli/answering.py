"""The verb that answers inputs with the model of a run."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.cli.verbs import Verbs, said
from lockstep.ground.console import show
from lockstep.ground.errors import DataError

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor

_SHOWN = 8  # numbers of a vector on a line


def add_to(verbs: Verbs) -> None:
    """Add predict."""
    verb = verbs.add(predict, runs=True)
    verb.add_argument("run", metavar="RUN")
    text = "a picture, a text, a CSV or NPY file, or numbers as 1,2,3"
    verb.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    text = "write a CSV file with a row for each; for a mask, a PNG of class numbers"
    verb.add_argument("--output", metavar="FILE", help=text)


def predict(options: argparse.Namespace) -> None:
    """Answer files, texts or numbers with the model of a run, in order."""
    from lockstep.ground.place import Place
    from lockstep.loading import find, predictor

    model = predictor(find(options.run, Place.default(options.runs).runs, said))
    named = [named for word in options.inputs for named in model.named_inputs(word)]
    names, answers = [name for name, _ in named], model.predict([one for _, one in named])
    if options.json:
        show(json.dumps(answers, indent=2))
    elif options.output and model.gives == "mask":
        _write_mask(options.output, answers)
    elif options.output:
        _write_table(options.output, model, names, answers)
    else:
        for name, answer in zip(names, answers, strict=True):
            show(f"{name}: {_in_words(model, answer)}")


def _in_words(model: "Predictor", answer: Any) -> str:
    """An answer on one line."""
    match model.gives:
        case "label":
            return f"{answer['label']} ({answer['confidence']:.1%})"
        case "labels":
            of = answer["confidences"]
            words = [f"{label} ({of[label]:.1%})" for label in answer["labels"]]
            return ", ".join(words) or f"none (all below {model.threshold:.0%})"
        case "values":
            return ", ".join(f"{name} {_number(value)}" for name, value in answer.items())
        case "mask":
            shares = sorted(answer["shares"].items(), key=lambda pair: -pair[1])
            return ", ".join(f"{name} {share:.1%}" for name, share in shares if share)
        case "text":
            return str(answer["text"])
        case _:
            numbers = list(_flat(answer["vector"]))
            more = f" ... ({len(numbers):,} numbers)" if len(numbers) > _SHOWN else ""
            return " ".join(map(_number, numbers[:_SHOWN])) + more


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6g}"


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [number for one in value for number in _flat(one)]
    return [value]


def _write_table(output: str, model: "Predictor", names: list[str], answers: list[Any]) -> None:
    """Write a CSV file with a row for each answer, the input first."""
    from lockstep.ground.files import write_atomically

    labels = list(model.preprocess.labels)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    heads: dict[Any, list[str]] = {
        "label": ["label", "confidence"],
        "labels": ["labels", *labels],
        "values": labels,
        "text": ["text"],
    }
    vectors = [_flat(answer["vector"]) for answer in answers] if model.gives == "vector" else []
    numbers = [str(number) for number in range(1, len(vectors[0]) + 1)] if vectors else []
    rows.writerow(("input", *heads.get(model.gives, numbers)))
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        match model.gives:
            case "labels":
                confidences = [answer["confidences"][label] for label in labels]
                cells = ["; ".join(answer["labels"]), *confidences]
            case "vector":
                cells = vectors[number]
            case _:
                cells = [answer[key] for key in heads[model.gives]]
        rows.writerow((name, *cells))
    write_atomically(Path(output), text.getvalue().encode())
    show(f"{output}: {len(answers)} answers")


def _write_mask(output: str, answers: list[Any]) -> None:
    """Write the mask of one input as a PNG whose values are the numbers of the classes."""
    from lockstep.ground import pictures
    from lockstep.ground.files import write_atomically

    if len(answers) != 1 or not output.lower().endswith(".png"):
        raise DataError(
            f"--output: found {output} for {len(answers)} masks, expected a .png for one; omit it, "
            "and --json prints all."
        )
    write_atomically(Path(output), pictures.mask_png(answers[0]["mask"]))
    show(f"{output}: 1 mask")
