"""Update rules and learning-rate schedules."""

import math
from collections.abc import Callable

import torch

from lockstep.training.parameters import FlatParameters

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Optimizer:
    """Adam, AdamW (decoupled decay) or SGD with Nesterov momentum, by torch's fused kernels.

    The same bits as ``torch.optim`` with ``fused=True``, whose kernels these are, without what that
    class brings along: importing torch's compiler (0.7 s) and hooks at every step. Fused, because
    the plain rules take a square root that is not correctly rounded on some CPUs (MKL's), so that
    every step of theirs depends on the CPU. Weight decay acts on parameters with two or more axes.
    """

    def __init__(self, flat: FlatParameters, *, name: str, weight_decay: float, momentum: float):
        self.flat, self.name, self.momentum = flat, name, momentum
        self.state = ("mean", "square") if name != "sgd" else ("momentum",) if momentum else ()
        self.tensors = {key: torch.zeros_like(flat.values) for key in self.state}
        self.tensors["steps"] = torch.zeros((), device=flat.values.device)
        decayed, everything = slice(0, flat.decayed), slice(flat.decayed, flat.values.numel())
        groups = ((decayed, weight_decay), (everything, 0.0))
        self._groups = [(part, decay) for part, decay in groups if part.start < part.stop]

    def step(self, rate: float) -> None:
        """Update the parameters from the gradient that stands beside them."""
        self.tensors["steps"] += 1
        update = self._sgd if self.name == "sgd" else self._adam
        for part, decay in self._groups:
            state = [[self.tensors[key][part]] for key in self.state]
            update([self.flat.values[part]], [self.flat.gradient[part]], state, rate, decay)

    def _sgd(
        self,
        values: list[torch.Tensor],
        gradient: list[torch.Tensor],
        state: list[list[torch.Tensor]],
        rate: float,
        decay: float,
    ) -> None:
        torch._fused_sgd_(
            values,
            gradient,
            state[0] if state else [],
            lr=rate,
            weight_decay=decay,
            momentum=self.momentum,
            dampening=0.0,
            nesterov=self.momentum > 0,
            maximize=False,
            is_first_step=False,
        )

    def _adam(
        self,
        values: list[torch.Tensor],
        gradient: list[torch.Tensor],
        state: list[list[torch.Tensor]],
        rate: float,
        decay: float,
    ) -> None:
        rule = torch._fused_adamw_ if self.name == "adamw" else torch._fused_adam_
        rule(
            values,
            gradient,
            state[0],
            state[1],
            [],
            [self.tensors["steps"]],
            lr=rate,
            beta1=_BETA1,
            beta2=_BETA2,
            eps=_EPSILON,
            weight_decay=decay,
            amsgrad=False,
            maximize=False,
        )


def learning_rate(
    *, peak: float, schedule: str, warmup: float, steps: int
) -> Callable[[int], float]:
    """The learning rate as a function of the step: a linear warm-up, then constant or down to 0.

    Rounded to 12 digits, so that another C library's cosine cannot change a bit.
    """
    rising = round(warmup * steps)

    def rate(step: int) -> float:
        share = (step - rising) / max(steps - rising, 1)
        if step < rising:
            height = (step + 1) / (rising + 1)
        elif schedule == "cosine":
            height = (1 + math.cos(math.pi * share)) / 2
        else:
            height = 1 - share if schedule == "linear" else 1.0
        return float(f"{peak * height:.12g}")

    return rate
