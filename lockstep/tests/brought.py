"""Nine models as teams bring them, beside the digits' data and answers: name to files."""

import numpy as np
import safetensors.numpy

from lockstep.ground import home

LOSS = """
def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)
"""
HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
"""
RECURRENT = """
class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.rows = nn.{kind}(8, 16, num_layers=2, dropout=0.2, batch_first=True)
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(16, classes))

    def forward(self, inputs):
        return self.classifier(self.rows(inputs.squeeze(1))[0][:, -1])
"""
RESNET = """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, inputs):
        hidden = F.relu(self.norms[0](self.first(inputs)))
        return F.relu(inputs + self.norms[1](self.second(hidden)))


class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Block(8), Block(8))
        self.classifier = nn.Linear(8, classes)

    def forward(self, inputs):
        return self.classifier(self.features(inputs).mean((2, 3)))
"""
LANGUAGE = """
class Model(nn.Module):
    \"\"\"Grey values as words; the scores of the first words are those of the labels.\"\"\"

    def __init__(self, config, classes):
        super().__init__()
        self.classes = classes
        self.words = nn.Embedding(17, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.decoder = nn.Linear(16, 17, bias=False)
        self.decoder.weight = self.words.weight

    def forward(self, inputs):
        text = (inputs.flatten(1) * 4).round().clamp(0, 16).long()
        return self.decoder(self.layer(self.words(text)).mean(1))[:, : self.classes]
"""
FEATURES = """
from pathlib import Path
from safetensors.torch import load_file


class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU()
        self.features = nn.Sequential(*layers)
        self.features.load_state_dict(load_file(Path(__file__).with_name("other.safetensors")))
        {freeze}
        self.classifier = nn.Linear(16, classes)

    def forward(self, inputs):
        return self.classifier(self.features(inputs))
"""
PLAIN = """
class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU())
        self.classifier = nn.Linear(16, classes)

    def forward(self, inputs):
        return self.classifier(self.features(inputs))
"""
TEACHER = """
def loss(model, batch):
    inputs, labels = batch
    with torch.no_grad():
        for mine, other in zip(model.teacher.parameters(), model.features.parameters()):
            mine.lerp_(other, 0.1)
    return F.cross_entropy(model(inputs), labels) + 0 * model.teacher(inputs).mean()
"""
MIXUP = """        share = np.random.beta(0.4, 0.4)
        return share * inputs + (1 - share) * inputs[np.random.permutation(len(inputs))]
"""
LAYERS = """
from pathlib import Path
from torch import nn

SCALE = float((Path(__file__).parent / "scale.txt").read_text())


class Scaled(nn.Linear):
    def forward(self, inputs):
        return SCALE * super().forward(inputs)
"""
WEIGHTED = """
def loss(model, batch):
    inputs, labels = batch
    weight = torch.linspace(0.5, 1.5, 10)
    return F.cross_entropy(model(inputs), labels, weight{how}
"""


def _mixing() -> str:
    """The preprocessing of digits with another augmentation."""
    text = (home.ENGINE / "examples" / "models" / "digits" / "preprocess.py").read_text()
    before, _, after = text.partition("        if not self.config.shift:\n")
    return f"{before}{MIXUP}{after[after.index('    @staticmethod'):]}"


def _other_run() -> bytes:
    """Weights that another run has left."""
    numbers = np.random.default_rng(3)
    shapes = {"1.weight": (16, 64), "1.bias": (16,), "2.weight": (16,), "2.bias": (16,)}
    tensors = {name: numbers.normal(0, 0.1, shape) for name, shape in shapes.items()}
    tensors |= {"2.running_mean": np.zeros(16), "2.running_var": np.ones(16)}
    plain = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    content: bytes = safetensors.numpy.save({**plain, "2.num_batches_tracked": np.array(7)})
    return content


FROZEN = "self.features.requires_grad_(False).eval()"
SCALED = PLAIN.replace("nn.Linear(64", "Scaled(64").replace(
    "class", "from .layers import Scaled\n\nclass", 1
)
TRAINED: dict[str, dict[str, str | bytes]] = {
    "LSTM with dropout": {"model.py": HEAD + RECURRENT.format(kind="LSTM") + LOSS},
    "GRU": {"model.py": HEAD + RECURRENT.format(kind="GRU") + LOSS},
    "batch-norm ResNet": {"model.py": HEAD + RESNET + LOSS},
    "tied-weight language model": {"model.py": HEAD + LANGUAGE + LOSS},
    "frozen features of another run": {
        "model.py": HEAD + FEATURES.format(freeze=FROZEN) + LOSS,
        "other.safetensors": _other_run(),
    },
    "features of another run, trained on": {
        "model.py": HEAD + FEATURES.format(freeze="") + LOSS,
        "other.safetensors": _other_run(),
    },
    "mixup by NumPy": {"model.py": HEAD + PLAIN + LOSS, "preprocess.py": _mixing()},
    "relative imports and a data file": {
        "model.py": HEAD + SCALED + LOSS,
        "layers.py": LAYERS,
        "scale.txt": "0.5\n",
    },
    "class weights, a mean by example": {
        "model.py": HEAD + PLAIN + WEIGHTED.format(how=", reduction='none').mean()"),
    },
}
REFUSED: dict[str, tuple[dict[str, str | bytes], str]] = {
    "teacher by lerp": (
        {
            "model.py": HEAD
            + PLAIN.replace(
                "        self.classifier",
                "        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))\n"
                "        self.classifier",
                1,
            )
            + TEACHER,
        },
        "loss: it changed the parameter teacher.1.weight",
    ),
    "class weights by torch": (
        {"model.py": HEAD + PLAIN + WEIGHTED.format(how=")")},
        "loss: not the mean over its examples",
    ),
}
