"""The hf model: a vision transformer with random weights, and its adapter."""

from typing import Any

from transformers import ViTConfig, ViTForImageClassification

from lockstep.adapters.transformers import program

from .config import Config


def make(config: Config, classes: int) -> Any:
    """Make a small vision transformer."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=2,
            intermediate_size=2 * config.width,
            num_labels=classes,
        )
    )


Model, loss = program(make)
