"""A LightningModule as a program: its steps and its optimizer, without a trainer.

    Model, loss, optimizer, schedule = program(lambda config, classes: Digits(config.hidden))

Its steps get (inputs, target), or what ``batch(inputs, target)`` makes of them. ``training.lr`` is
a factor of the module's own rates. ``without`` names methods that are left out, as hooks that log.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from lockstep.ground.errors import ModelError

_TAKEN = "forward training_step validation_step test_step predict_step configure_optimizers"
_OLD = re.compile("(training|validation)_(step|epoch)_end")  # hooks that Lightning 2 has no more
_OPERATORS = "eq ne lt le gt ge bool int index float add radd sub rsub mul rmul mod floordiv"


class _Trainer:
    """In place of a trainer: knows how long a training is, and refuses all other questions."""

    def __init__(self, steps: int, epochs: int):
        self.estimated_stepping_batches, self.max_epochs = steps, epochs

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(
            f"LightningModule: uses trainer.{name}, but there is no trainer; a step may depend on "
            "its batch alone."
        )


def _refuse(*_: Any) -> NoReturn:
    raise ModelError("LightningModule: uses batch_idx; a step may depend on its batch alone.")


_Number = type("_Number", (), {f"__{name}__": _refuse for name in _OPERATORS.split()})


def program(
    make: Callable[[Any, int], Any],
    batch: Callable[[Any, Any], Any] = lambda inputs, target: (inputs, target),
    without: Sequence[str] = (),
) -> tuple[Callable[..., Any], ...]:
    """Return Model, loss, optimizer and schedule of the module that ``make`` makes.

    They raise ModelError for hooks, manual optimization, and what only a trainer can do.
    """
    last: list[Any] = []  # the module, and what its optimizer's groups have
    takes: dict[str, int] = {}  # how many words a step takes

    def model(config: Any, classes: int) -> Any:
        last[:] = [module := make(config, classes)]
        written = _refuse_others(module, without)
        steps = [one for one in ("validation_step", "training_step") if one in written]
        takes.clear()
        takes.update({one: _taken(type(module), one) for one in steps})
        for part in [one for one in module.modules() if hasattr(one, "_trainer")]:
            part._trainer = _Trainer(1000, 10)  # until the schedule knows
            vars(part).update(dict.fromkeys(("log", "log_dict", "print"), lambda *_, **__: None))
        return module

    def loss(model: Any, examples: Any) -> Any:
        evaluates = not torch.is_grad_enabled()
        for name in [one for one in takes if evaluates or one == "training_step"]:
            words = (batch(*examples), _Number())[: takes[name]]
            result = getattr(model, name)(*words)
            for metric in [one for one in model.modules() if hasattr(one, "_defaults")]:
                metric.reset()  # torchmetrics: what it has counted is asked by nobody
            value = result.get("loss") if isinstance(result, dict) else result
            if isinstance(value, torch.Tensor) and value.dim() == 0:
                break  # a validation step may log only, or return answers
        return value

    def optimizer(config: Any, groups: list[dict[str, Any]]) -> Any:  # noqa: ARG001
        if other := [group["lr"] for group in groups if group["lr"] != 1]:
            raise ModelError(
                f"training.lr: found {other[0]:g}, expected 1, a factor of the module's own rates; "
                "say so in the recipe."
            )
        own = _configured(last[0])[0]
        last[1:] = [_beside_rates(own)]
        for group in own.param_groups:
            group["factor"] = _first_rate(group)
            if group.get("fused", True) is None and not group.get("foreach"):
                group["fused"] = True  # portable, where torch would choose by itself
        return own

    def schedule(config: Any, steps: int, epochs: int) -> Callable[[int], float]:  # noqa: ARG001
        for part in [one for one in last[0].modules() if hasattr(one, "_trainer")]:
            part._trainer = _Trainer(steps, epochs)
        optimizer, how = _configured(last[0])  # another one, whose rates alone are asked
        each = steps // epochs if how.get("interval", "epoch") == "epoch" else 1
        factors = []
        for step in range(1, steps + 1):
            rates = [(one["lr"], _first_rate(one)) for one in optimizer.param_groups]
            shares = [rate / first for rate, first in rates if first] or [1.0]
            if max(shares) - min(shares) > 1e-9:
                raise ModelError("configure_optimizers: expected one schedule for all groups.")
            factors.append(shares[0])
            if how and step % (each * how.get("frequency", 1)) == 0:
                with warnings.catch_warnings(action="ignore"):  # that the optimizer took no step
                    how["scheduler"].step()
            if _beside_rates(optimizer) != last[1]:
                raise ModelError(
                    "configure_optimizers: its scheduler moves more than the rate, expected that "
                    "alone (OneCycleLR and CyclicLR: cycle_momentum=False)."
                )
        return factors.__getitem__

    return model, loss, optimizer, schedule


def _refuse_others(module: Any, without: Sequence[str]) -> set[str]:
    """Return the methods that are used. Raises ModelError for those that a training leaves out."""
    name, written = type(module).__name__, _written(type(module))
    if missing := {"training_step", "configure_optimizers"} - written:
        raise ModelError(f"{name}: found no {max(missing)}, expected a LightningModule with one.")
    if unknown := {*without} - written:
        raise ModelError(f"without: {name} has no {min(unknown)} of its own; leave it out there.")
    if wrong := sorted(written - {*_TAKEN.split(), *without}):
        raise ModelError(
            f"{name}: found {wrong[0]}, which a trainer would call; move what training needs of it "
            f'into training_step, and leave it out: program(..., without=["{wrong[0]}"]).'
        )
    if not module.automatic_optimization:
        raise ModelError(
            f"{name}: found automatic_optimization = False; write its steps as `updates` of a "
            "program, around the modules inside."
        )
    return written - {*without}


def _written(kind: type) -> set[str]:
    """Return the methods of Lightning's that a module has in its own way."""
    kinds = kind.__mro__
    theirs = [one for one in kinds if one.__module__.startswith(("lightning.", "pytorch_lightn"))]
    names = {name for one in theirs for name in vars(one) if name[0] != "_"}
    own = {name for one in kinds[: kinds.index(theirs[0])] for name in vars(one)} if theirs else ()
    return {name for name in own if name in names or _OLD.fullmatch(name)}


def _taken(kind: type, name: str) -> int:
    """Return whether a step takes the batch alone, 1, or its number as well, 2."""
    parameters = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return 2
    words = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
    if more := [one.name for one in words[2:] if one.default is one.empty]:
        raise ModelError(f"{name}: takes {more[0]}, expected a batch and batch_idx.")
    return min(2, len(words))


def _configured(module: Any) -> tuple[Any, dict[str, Any]]:
    """Return the optimizer of a module, and what says how its rate moves; {} if nothing does."""
    result, schedulers = module.configure_optimizers(), []
    if isinstance(result, tuple) and isinstance(result[0], list):
        result, schedulers = result
    own = list(result) if isinstance(result, list | tuple) else [result]
    if len(own) == 1 and isinstance(own[0], dict):
        schedulers = [one] if (one := own[0].get("lr_scheduler")) else []
        own = [own[0].get("optimizer")]
    if len(own) != 1 or not isinstance(own[0], torch.optim.Optimizer):
        kinds = ", ".join(type(one).__name__ for one in own) or "none"
        raise ModelError(
            f"configure_optimizers: found {kinds}, expected one optimizer; write several as "
            "`updates` of a program."
        )
    how = [one if isinstance(one, dict) else {"scheduler": one} for one in schedulers]
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    if len(how) > 1 or any(isinstance(one["scheduler"], plateau) for one in how):
        raise ModelError("configure_optimizers: expected one scheduler, a function of the step.")
    return own[0], how[0] if how else {}


def _first_rate(group: dict[str, Any]) -> float:
    rate: float = group.get("initial_lr", group["lr"])  # a warm-up begins below it
    return rate


def _beside_rates(optimizer: Any) -> list[dict[str, Any]]:
    """Return what an optimizer's groups have, but the rate of now."""
    left_out = ("params", "lr")
    return [
        {key: group[key] for key in group if key not in left_out}
        for group in optimizer.param_groups
    ]
