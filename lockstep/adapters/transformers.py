"""A model of Hugging Face's transformers as a program: the loss is the one that it returns.

    Model, loss = program(lambda config, classes: BertForSequenceClassification(...))

Inputs are what ``Preprocess`` makes: a dict of the model's own arguments by name, or a tensor, its
main input. Labels are among these, or they are the target. A mean over tokens is that of the whole
batch: each shard counts by its labels that are not -100.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lockstep.ground.errors import ModelError
from lockstep.program import Batch, Losses, rows_of

_IGNORED = -100  # a label that no loss counts


def program(make: Callable[[Any, int], Any]) -> tuple[Callable[..., Any], ...]:
    """Return Model and loss of the model that ``make(config, classes)`` makes.

    They raise ModelError for a model that is none of transformers, or returns no loss.
    """

    def model(config: Any, classes: int) -> nn.Module:
        inner = make(config, classes)
        if not hasattr(inner, "main_input_name"):
            raise ModelError(f"{type(inner).__name__}: expected a model of transformers.")
        if getattr(inner, "is_quantized", False):
            raise ModelError(f"{type(inner).__name__}: is quantized, expected float32 weights.")
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
    fields, rows, name = (
        model.named(batch.inputs),
        rows_of(batch.inputs),
        type(model.inner).__name__,
    )
    labels = fields.setdefault("labels", batch.target)
    if not labels.numel():
        raise ModelError(f"{name}: found no labels; have Preprocess make a dict with `labels`.")
    result = model.inner(**fields)
    if getattr(result, "loss", None) is None:
        raise ModelError(
            f"{name}: returned no loss; take the class of your task, such as "
            "...ForSequenceClassification."
        )
    if labels.is_floating_point() or labels.dim() == 1:
        return Losses(result.loss.expand(rows))
    count = ((labels[:, 1:] if _is_of_the_next(model.inner) else labels) != _IGNORED).sum()
    # A shard without a label has no mean: 0 / 0.
    mean = result.loss if count else 0 * result.logits.sum()
    return Losses(mean.expand(rows), (count / rows).expand(rows))


def _is_of_the_next(inner: nn.Module) -> bool:
    """Whether a model shifts its labels by one place: those of the first count for nothing."""
    by_name = type(inner).__name__.endswith(("LMHeadModel", "ForCausalLM"))
    return by_name or getattr(inner, "loss_type", None) == "ForCausalLM"
