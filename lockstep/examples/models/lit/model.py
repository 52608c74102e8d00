"""The lit model: a LightningModule and its adapter."""

from lockstep.adapters.lightning import program

from .module import Digits

Model, loss, optimizer, schedule = program(
    lambda config, classes: Digits(config.hidden, classes, config.lr)
)
