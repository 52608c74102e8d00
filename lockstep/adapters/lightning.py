"""A LightningModule as a program: its steps and its optimizer, without a trainer.

    Model, loss, optimizer, schedule = program(lambda config, classes: Digits(config.hidden))

A step takes (inputs, target). ``training.lr`` is a factor of the module's own rates."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from lockstep.ground.errors import ModelError

_TAKEN = "forward training_step validation_step test_step predict_step configure_optimizers"


class _Absent:
    """In place of a trainer, or of a batch's number: refuses to be asked."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(f"LightningModule: found trainer.{name} in a step, expected no trainer.")

    def __eq__(self, other: object) -> NoReturn:
        raise ModelError("LightningModule: found batch_idx in a step, expected its batch alone.")

    __mod__ = __lt__ = __gt__ = __floordiv__ = __eq__


def program(make: Callable[[Any, int], Any]) -> tuple[Callable[..., Any], ...]:
    """Return Model, loss, optimizer and schedule of the module that ``make`` makes.

    They raise ModelError for hooks, manual optimization, and what only a trainer can do."""
    last: list[Any] = []

    def model(config: Any, classes: int) -> Any:
        last[:] = [module := make(config, classes)]
        wrong = sorted(_written(module) - {*_TAKEN.split()})
        wrong += ["automatic_optimization = False"] * (not module.automatic_optimization)
        if wrong:
            name = type(module).__name__
            raise ModelError(f"{name}: found {wrong[0]}, which needs a trainer; leave it out.")
        for part in [one for one in module.modules() if hasattr(one, "_trainer")]:
            part._trainer = _Absent()
            vars(part).update(dict.fromkeys(("log", "log_dict", "print"), lambda *_, **__: None))
        return module

    def loss(model: Any, batch: Any) -> Any:
        has_own = not model.training and "validation_step" in _written(model)
        for name in ("validation_step", "training_step")[0 if has_own else 1 :]:
            taken = list(inspect.signature(step := getattr(model, name)).parameters)
            if "dataloader_idx" in taken:
                raise ModelError(f"{name}: takes dataloader_idx, expected one data loader.")
            result = step(*(batch, _Absent())[: len(taken)])
            for metric in [one for one in model.modules() if hasattr(one, "_defaults")]:
                metric.reset()  # torchmetrics: what it has counted is asked by nobody
            if result is not None:  # a validation step may only log
                break
        return result["loss"] if isinstance(result, dict) else result

    def optimizer(config: Any, groups: list[dict[str, Any]]) -> Any:  # noqa: ARG001
        if (rate := groups[0]["lr"]) != 1:
            raise ModelError(f"training.lr: found {rate:g}, expected 1, a factor of its own rates.")
        for group in (own := _configured(last[0])[0]).param_groups:
            group["factor"] = group["lr"]
            if group.get("fused", True) is None and not group.get("foreach"):
                group["fused"] = True  # portable, where torch would choose by itself
        return own

    def schedule(config: Any, steps: int, epochs: int) -> Callable[[int], float]:  # noqa: ARG001
        optimizer, how = _configured(copy.deepcopy(last[0]))
        each = steps // epochs if how.get("interval", "epoch") == "epoch" else 1
        factors, groups = [], optimizer.param_groups
        optimizer.step()  # of no gradient: schedulers expect one
        for step in range(1, steps + 1):
            shares = [one["lr"] / (one.get("initial_lr", one["lr"]) or 1) for one in groups]
            if max(shares) - min(shares) > 1e-9:
                raise ModelError("configure_optimizers: expected one schedule for all groups.")
            factors.append(shares[0])
            if how and step % (each * how.get("frequency", 1)) == 0:
                how["scheduler"].step()
        return factors.__getitem__

    return model, loss, optimizer, schedule


def _written(module: Any) -> set[str]:
    """Return the methods of Lightning's that a module has in its own way."""
    kinds = type(module).__mro__
    theirs = [one for one in kinds if one.__module__.startswith(("lightning.", "pytorch_lightn"))]
    names = {name for kind in theirs for name in vars(kind) if name[0] != "_"}
    return {n for kind in kinds[: kinds.index(theirs[0])] for n in vars(kind)} & names


def _configured(module: Any) -> tuple[Any, dict[str, Any]]:
    """Return the optimizer of a module, and what says how its rate moves; {} if nothing does."""
    result, schedulers = module.configure_optimizers(), []
    if isinstance(result, tuple) and isinstance(result[0], list):
        result, schedulers = result
    elif isinstance(result, dict):
        schedulers = [result[key] for key in result if key == "lr_scheduler"]
        result = result["optimizer"]
    own = list(result) if isinstance(result, list | tuple) else [result]
    how = [one if isinstance(one, dict) else {"scheduler": one} for one in schedulers]
    if len(own) != 1 or len(how) > 1 or any("ReduceLROnPlateau" in str(one) for one in how):
        raise ModelError("configure_optimizers: expected one optimizer, and a scheduler of steps.")
    return own[0], how[0] if how else {}
