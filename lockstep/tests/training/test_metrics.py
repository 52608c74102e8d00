"""Metrics by the kind of the targets: the same as scikit-learn's, and defined for any numbers."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from lockstep.training.metrics import (
    LARGEST_CONFUSION,
    classification,
    confusions,
    is_lower_better,
    multilabel,
    regression,
    segmentation,
)

NUMBERS = np.random.default_rng(0)


def test_numbers_have_the_errors_that_scikit_learn_computes() -> None:
    target = NUMBERS.normal(size=(50, 2))
    outputs = (target + NUMBERS.normal(size=(50, 2)) / 4).astype(np.float32)
    expected = {
        "mae": sklearn.mean_absolute_error(target, outputs),
        "rmse": sklearn.mean_squared_error(target, outputs) ** 0.5,
        "r2": sklearn.r2_score(target, outputs),
    }
    assert regression(outputs, target) == pytest.approx(expected, rel=1e-12)


def test_a_constant_target_is_explained_wholly_or_not_at_all() -> None:
    target = np.full((4, 1), 2.0)
    right, wrong = target.astype(np.float32), np.ones((4, 1), np.float32)
    assert [regression(outputs, target)["r2"] for outputs in (right, wrong)] == [1.0, 0.0]


def test_numbers_that_are_not_finite_leave_no_metric() -> None:
    outputs = np.array([[1.0], [np.nan]], np.float32)
    assert regression(outputs, np.ones((2, 1))) == {"mae": None, "rmse": None, "r2": None}


@pytest.mark.parametrize("labels", [1, 5])
def test_labels_have_the_scores_that_scikit_learn_computes(labels: int) -> None:
    target = NUMBERS.integers(0, 2, (60, labels))
    outputs = NUMBERS.random((60, labels)).astype(np.float32)
    found = multilabel(outputs, target)
    f1 = [sklearn.f1_score(*pair) for pair in zip(target.T, outputs.T >= 0.5, strict=True)]
    assert found["f1"] == pytest.approx(np.mean(f1))
    assert found["per_class"]["f1"] == pytest.approx(f1)
    assert found["accuracy"] == np.mean(((outputs >= 0.5) == target).all(axis=1))


def test_masks_have_the_overlap_that_scikit_learn_computes() -> None:
    target = NUMBERS.integers(0, 3, (6, 4, 5))
    outputs = NUMBERS.random((6, 3, 4, 5)).astype(np.float32)
    flat = target.ravel(), outputs.argmax(axis=1).ravel()
    found = segmentation(confusions(outputs, target))
    assert found["iou"] == pytest.approx(sklearn.jaccard_score(*flat, average="macro"))
    assert found["accuracy"] == sklearn.accuracy_score(*flat)
    assert found["confusion"] == sklearn.confusion_matrix(*flat).tolist()


def test_pixels_of_no_class_are_left_out_and_answers_without_a_number_are_wrong() -> None:
    target = np.array([[[0, 1, 255, -100]]])
    outputs = np.zeros((1, 2, 1, 4), np.float32)
    outputs[0, 0, 0, 0], outputs[0, 1, 0, 1] = 1, np.nan
    assert confusions(outputs, target).tolist() == [[[1, 0], [1, 0]]]


def test_a_table_of_confusions_is_kept_up_to_a_hundred_classes() -> None:
    for classes in (LARGEST_CONFUSION, LARGEST_CONFUSION + 1):
        outputs = np.eye(classes, dtype=np.float32)
        found = classification(outputs, np.arange(classes))
        assert (found["accuracy"], "confusion" in found) == (1.0, classes == LARGEST_CONFUSION)
        assert len(found["per_class"]["f1"]) == classes


def test_less_of_an_error_is_better_and_more_of_all_else() -> None:
    lower = ("loss", "mae", "log_loss", "mean_squared_error", "perplexity", "val_rmse", "fid")
    higher = ("accuracy", "f1", "iou", "r2", "neg_mean_squared_error", "lossless", "auc")
    assert [name for name in (*lower, *higher) if is_lower_better(name)] == list(lower)
    assert is_lower_better("surprise", {"surprise"})
