"""The settings of a run as frozen dataclasses: each has a type, a default, bounds and help."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    power_of_two: bool = False,
    bits: bool = True,
) -> Any:
    """A field of a settings class: its default, one line of help and the values it may take.

    ``bits=False`` marks a setting that does not decide the result, so it is not in the identity.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "power_of_two": power_of_two,
        "bits": bits,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_USUAL = "float32"
_SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Data:
    """Which examples a run learns from."""

    name: str = setting("", "data set of the catalog")
    limit: int = setting(0, "use only N training examples, of each class alike; 0 = all", low=0)
    sampling: str = setting(
        _SHUFFLED,
        "order of the training examples; balanced draws each class alike often",
        choices=(_SHUFFLED, "balanced", "sequential"),
    )
    drop_last: bool = setting(False, "leave out an epoch's last batch if it is smaller")
    folds: int = setting(0, "parts of the examples that are not for test; 0 = no folds", low=0)
    fold: int = setting(1, "which of these parts validates; the others train", low=1)

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("data.folds: found 1, expected 2 or more, or 0 for none")
        if self.fold > max(self.folds, 1):
            raise ValueError(
                f"data.fold: found {self.fold}, expected 1 to {self.folds} (data.folds)"
                if self.folds
                else f"data.fold: found {self.fold} of no folds; set data.folds, such as 5"
            )


@dataclass(frozen=True)
class Start:
    """Which weights a run starts from, in place of random ones."""

    weights: str = setting(
        "",
        "a finished run, MODEL@VERSION of published weights, or a .safetensors file; empty = none",
        bits=False,
    )
    sha256: str = setting("", "digest of these weights; empty = as they are now")
    parameters: list[str] = setting(["*"], "patterns of the tensors that they fill")
    rename: dict[str, str] = setting({}, "beginnings of names in them, and what they are here")


@dataclass(frozen=True)
class Training:
    """How a run learns."""

    epochs: int = setting(10, "passes over the training split", low=1)
    batch_size: int = setting(128, "samples in a step", low=1)
    lr: float = setting(0.001, "peak learning rate", low=0)
    shards: int = setting(
        8,
        "blocks of a batch whose gradients are summed along a tree",
        low=1,
        high=256,
        power_of_two=True,
    )
    optimizer: str = setting("adamw", "update rule", choices=("adamw", "adam", "sgd"))
    weight_decay: float = setting(0.0, "decay of weights with two or more axes", low=0)
    momentum: float = setting(0.9, "momentum of sgd", low=0, high=1)
    schedule: str = setting(
        "constant", "learning rate after the warm-up", choices=("constant", "linear", "cosine")
    )
    warmup: float = setting(0.0, "share of the steps that raise the rate from 0", low=0, high=1)
    clip: float = setting(0.0, "largest norm of a gradient, 0 = no clipping", low=0)
    clip_value: float = setting(0.0, "largest value of a gradient, 0 = no clipping", low=0)
    average: float = setting(
        0.0, "decay of a running mean of the weights, 0 = none; it is what is kept", low=0, high=1
    )
    patience: int = setting(0, "epochs without a better one before stopping, 0 = never", low=0)
    monitor: str = setting(
        "", "validation metric that says which weights are better, empty = the model's first"
    )
    keep: str = setting("best", "weights that the run ends with", choices=("best", "last"))
    evaluation_batch: int = setting(500, "samples evaluated at once", low=1)
    profile: str = setting(
        "portable",
        "portable = same bits on any AVX2 CPU, native = all that this CPU has",
        choices=("portable", "native"),
    )
    device: str = setting("cpu", "where tensors live", choices=("cpu", "cuda"))
    precision: str = setting(
        _USUAL,
        "what losses are computed in; bf16 = products in bfloat16, weights in float32",
        choices=(_USUAL, "bf16"),
    )
    workers: int = setting(
        0,
        "processes that share each batch, 0 = one for each core or GPU",
        low=0,
        bits=False,
    )
    loaders: int = setting(0, "background processes that assemble batches", low=0, bits=False)
    checkpoint_every: int = setting(200, "steps between checkpoints", low=1, bits=False)
    checkpoint_seconds: float = setting(
        0.0, "seconds between checkpoints besides, 0 = by steps alone", low=0, bits=False
    )
    keep_checkpoints: int = setting(2, "checkpoints kept beside the best", low=1, bits=False)

    def __post_init__(self) -> None:
        if self.workers > self.shards:
            raise ValueError(
                f"training.workers: found {self.workers}, expected at most one for each of the "
                f"{self.shards} shards (training.shards) that a batch has"
            )


@dataclass(frozen=True)
class Experiment:
    """The whole resolved configuration of a run; ``settings`` is the model's own Config.

    ``accept`` are its budgets, measure to bound; they decide no bit.
    """

    model: str
    recipe: str
    seed: int
    data: Data
    settings: Any
    training: Training
    accept: dict[str, str] = field(default_factory=dict)
    start: Start = field(default_factory=Start)

    @property
    def sections(self) -> dict[str, Any]:
        """The dataclasses with the settings, by the section of a recipe that states them."""
        return {
            "data": self.data,
            "model": self.settings,
            "training": self.training,
            "start": self.start,
        }

    def as_dict(self, *, bits_only: bool = False) -> dict[str, Any]:
        """Plain values by section, as in a recipe; ``bits_only`` leaves out what decides no bit."""
        plain: dict[str, Any] = {
            section: {
                item.name: getattr(part, item.name)
                for item in dataclasses.fields(part)
                if item.metadata.get("bits", True) or not bits_only
            }
            for section, part in self.sections.items()
        }
        if not self.start.weights:
            del plain["start"]
        # As in runs from before there was another choice, which so keep their identities.
        if not self.data.folds:
            del plain["data"]["folds"], plain["data"]["fold"]
        if self.training.precision == _USUAL:
            del plain["training"]["precision"]
        if self.data.sampling == _SHUFFLED:
            del plain["data"]["sampling"]
        if not self.data.drop_last:
            del plain["data"]["drop_last"]
        if self.accept and not bits_only:
            plain["accept"] = dict(self.accept)
        plain |= {"name": self.model, "recipe": self.recipe, "seed": self.seed}
        if bits_only:
            del plain["recipe"]  # a file's name decides nothing
        return plain
