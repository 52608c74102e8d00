"""A model of Hugging Face's transformers as a program: the loss is the one that it returns.

    Model, loss = program(lambda config, classes: BertForSequenceClassification(...))

Inputs are what ``Preprocess`` makes: a dict of the model's own arguments by name, or a tensor, its
main input. The target is its ``labels`` if none are among the inputs; a target of several fields
is more arguments. A mean over tokens is that of the whole batch: each shard counts by its labels.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lockstep.ground.errors import ModelError
from lockstep.program import Batch, Losses, rows_of

_IGNORED = -100  # a label that a loss leaves out, unless the model's config names another


def program(make: Callable[[Any, int], Any]) -> tuple[Callable[..., Any], ...]:
    """Return Model and loss of the model that ``make(config, classes)`` makes.

    They raise ModelError for a model that is none of transformers, or returns no loss.
    """

    def model(config: Any, classes: int) -> nn.Module:
        inner = make(config, classes)
        name = type(inner).__name__
        if not hasattr(inner, "main_input_name"):
            raise ModelError(f"{name}: expected a model of transformers.")
        if getattr(inner, "is_quantized", False):
            raise ModelError(f"{name}: is quantized, expected float32 weights.")
        if not getattr(inner.config, "return_dict", True):
            raise ModelError(f"{name}: found return_dict=False in its config, expected True.")
        return Scores(inner)

    return model, loss


class Scores(nn.Module):
    """Inputs by name, each (n, ...), to the scores of a model, (n, ...)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Any) -> torch.Tensor:
        fields = {name: one for name, one in self.named(inputs).items() if name != "labels"}
        scores: torch.Tensor = self.inner(**fields).logits
        return scores

    def named(self, inputs: Any) -> dict[str, Any]:
        """Return inputs by the names of the model's own arguments."""
        name: Any = self.inner.main_input_name
        return dict(inputs) if isinstance(inputs, Mapping) else {name: inputs}


def loss(model: Scores, batch: Batch) -> Losses:
    """Return the model's loss of a shard, counted by its labels."""
    inner: Any = model.inner
    fields, rows, name = model.named(batch.inputs), rows_of(batch.inputs), type(inner).__name__
    if isinstance(batch.target, Mapping):
        fields |= batch.target
    elif "labels" in inspect.signature(inner.forward).parameters:
        fields.setdefault("labels", batch.target)
    labels = fields.get("labels")
    if labels is not None:
        if not labels.numel():
            raise ModelError(f"{name}: found no labels; have Preprocess make a dict with `labels`.")
        several = getattr(inner.config, "problem_type", None) == "multi_label_classification"
        if not labels.is_floating_point():  # a data set has bytes, for classes and for 0 and 1
            fields["labels"] = labels = labels.float() if several else labels.long()
    result = inner(**fields)
    if getattr(result, "loss", None) is None:
        raise ModelError(
            f"{name}: returned no loss; take the class of your task, such as "
            "...ForSequenceClassification."
        )
    if labels is None or labels.is_floating_point():
        return Losses(result.loss.expand(rows))
    counted = labels[:, 1:] if labels.dim() > 1 and _is_of_the_next(inner) else labels
    count = (counted != getattr(inner.config, "semantic_loss_ignore_index", _IGNORED)).sum()
    # A shard without a label has no mean: 0 / 0.
    mean = result.loss if count else 0 * result.logits.sum()
    return Losses(mean.expand(rows), (count / rows).expand(rows))


def _is_of_the_next(inner: Any) -> bool:
    """Whether a model shifts its labels by one place, so that those of the first count nothing."""
    code = inspect.unwrap(type(inner).forward).__code__
    by_library = "loss_function" in code.co_names
    shifts = by_library and inner.loss_function.__name__ == "ForCausalLMLoss"
    return shifts or "shift_labels" in code.co_varnames
