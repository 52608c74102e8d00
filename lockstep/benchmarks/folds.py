"""Cross-validates the tags model on all rows in five folds."""

import dataclasses
import functools
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from lockstep.benchmarks.measure import ROOT, Table
from lockstep.config.recipe import resolve
from lockstep.data.dataset import Dataset, Split
from lockstep.ground import home, profiles
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch

FOLDS = 5
Answers = NDArray[np.int64]


def folds(rounds: int) -> Table:
    """Weighted F1 of ``tags/base`` and of TF-IDF with logistic regression on the same rows.

    Each round cuts the folds anew, by another hash.
    """
    # A process of its own, which enters the profile before anything imports torch.
    command = [sys.executable, "-m", "lockstep.benchmarks.folds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: dict[str, list[float]] = json.loads(done.stdout)
    rows = [
        [name, f"{statistics.mean(f1):.4f}", f"{statistics.stdev(f1):.4f}", str(len(f1))]
        for name, f1 in found.items()
    ]
    return Table("folds", ["5 folds", "weighted F1, mean", "deviation", "folds"], rows, found)


def measured(rounds: int) -> dict[str, list[float]]:
    """Weighted F1 on each fold, by the name of who answers."""
    profiles.enter("portable")
    from lockstep.run.keeping import open_data
    from lockstep.training.determinism import enforce

    enforce("portable", "cpu")
    opened = open_data("tags", Place.default(), Watch())
    inputs = np.concatenate([split.inputs for split in opened.splits.values()])
    labels = np.concatenate([split.target for split in opened.splits.values()])
    answering: dict[str, Callable[[Dataset, Split, Split], Answers]] = {
        "`tags/base`": ours,
        "TF-IDF, logistic regression": functools.partial(baseline, C=1.0),
        "the same, C=10, classes balanced": functools.partial(
            baseline, C=10.0, class_weight="balanced"
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in answering}
    for salt in range(rounds):
        for held_out in parts(inputs, labels, salt):
            train, test = (Split(inputs[rows], labels[rows]) for rows in (~held_out, held_out))
            for name, answer in answering.items():
                predicted = answer(opened, train, test)
                found[name].append(f1_score(test.target, predicted, average="weighted"))
    return found


def parts(inputs: NDArray[Any], labels: Answers, salt: int) -> list[NDArray[np.bool_]]:
    """Return a mask for each fold: the rows of each class in a hash's order, dealt out in turn."""
    hashes = [hashlib.sha256(b"%d" % salt + bytes(row)).digest() for row in inputs]
    fold = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label), key=hashes.__getitem__)
        fold[rows] = np.arange(len(rows)) % FOLDS
    return [fold == number for number in range(FOLDS)]


def ours(opened: Dataset, train: Split, test: Split) -> Answers:
    """Return the answers of the recipe trained on these rows."""
    from lockstep.run.making import Setup, train_setup
    from lockstep.run.recorder import NullRecorder
    from lockstep.training.distributed import ALONE

    experiment, _ = resolve(
        "tags", home.here().recipe("tags", "base"), home.here().config_of("tags"), seed=42
    )
    splits = {"train": train, "validation": test, "test": test}  # it stops by the step, not by them
    setup = Setup(experiment, dataclasses.replace(opened, splits=splits), ALONE)
    train_setup(setup, NullRecorder(), lambda: lambda _: None, 0)
    with setup.training.kept_weights():
        outputs = setup.measure("test").outputs
    assert outputs is not None
    answers: Answers = outputs.argmax(axis=1)
    return answers


def baseline(_: Dataset, train: Split, test: Split, **settings: Any) -> Answers:
    """Return the answers of scikit-learn's plain pipeline."""
    words = TfidfVectorizer()
    seen, unseen = (
        [bytes(row).rstrip(b"\0").decode() for row in split.inputs] for split in (train, test)
    )
    model = LogisticRegression(max_iter=2000, **settings)
    model.fit(words.fit_transform(seen), train.target)
    answers: Answers = model.predict(words.transform(unseen))
    return answers


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]))))
