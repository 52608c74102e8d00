"""A LightningModule and a model of transformers, unchanged, under the trials of the examples.

The libraries are installed aside, from the index that pip knows; without one, these are skipped.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lockstep.records.run import Run
from lockstep.tests.conftest import ADAPTED, ROOT
from lockstep.tests.examples.test_trials import lockstep, said, train

pytestmark = pytest.mark.slow

# With what they load at least; torch and the rest are those of the lock.
LIBRARIES = """
lightning==2.6.6 pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0
transformers==5.24.0 tokenizers==0.23.3 huggingface-hub==2.4.0 httpx2==2.16.2 httpcore2==2.16.2
truststore==0.10.5 typer==0.29.2
"""
each = pytest.mark.parametrize("model", ADAPTED)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both libraries."""
    folder = tmp_path_factory.mktemp("libraries")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*words, str(folder), *LIBRARIES.split()], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no index has them: {done.stderr.strip().splitlines()[-1]:.200}")
    return folder


@pytest.fixture
def libraries(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries on the path of a test's commands."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(installed)]))


@each
def test_an_adapted_model_has_the_same_bits_after_a_kill_with_other_workers(
    tmp_path: Path, libraries: None, model: str
) -> None:
    whole = train(model, "--workers=1", runs=tmp_path / "whole")
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    process = train(model, "--workers=2", runs=tmp_path / "killed")
    while process.poll() is None and not list(tmp_path.glob("killed/*/checkpoints/0*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = train(model, "--workers=1", runs=tmp_path / "killed")
    _, err = again.communicate()
    assert again.returncode == 0, err
    first, second = (
        Run(next((tmp_path / name).glob(f"{model}-*"))) for name in ("whole", "killed")
    )
    assert first.finished_receipt()["results"] == second.finished_receipt()["results"]
    assert first.finished_receipt()["level"]["lowered"] == []
    assert said("evaluate", first.name, runs=tmp_path / "whole")["as_in_receipt"] is True
    assert said("reproduce", first.name, "--trust-code", runs=tmp_path / "whole")["same"] is True


@each
def test_an_example_without_its_library_is_refused_in_one_line(tmp_path: Path, model: str) -> None:
    process = lockstep("train", f"{model}/base", "--seed=1", runs=tmp_path)
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert f"module '{ADAPTED[model]}' not found; correct the import, or add its package" in err


MODULES = """
import lightning as L, torch
from lockstep.adapters.lightning import program
from lockstep.ground.errors import ModelError
from lockstep.program import Batch

class Plain(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
    def forward(self, inputs):
        return self.layer(inputs)
    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0)
        return self(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

class Hook(Plain):
    def on_train_epoch_end(self): pass
class Loaders(Plain):
    def val_dataloader(self): return []
class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
class Epoch(Plain):
    def training_step(self, batch):
        return super().training_step(batch, 0) * self.current_epoch
class Number(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, 0) if batch_idx % 2 else None
class Loader(Plain):
    def validation_step(self, batch, batch_idx, dataloader_idx): pass
class Several(Plain):
    def configure_optimizers(self):
        return [super().configure_optimizers(), super().configure_optimizers()]
class Momentum(Plain):
    def configure_optimizers(self):
        own = super().configure_optimizers()
        own.param_groups[0]["momentum"] = 0.9
        return [own], [torch.optim.lr_scheduler.OneCycleLR(own, 0.5, 9)]
class Old(Plain):
    def training_epoch_end(self, outputs): pass
class Nothing(L.LightningModule):
    def configure_optimizers(self): pass
class Truth(Plain):
    def training_step(self, batch, batch_idx):
        return None if batch_idx else super().training_step(batch, 0)
class Plateau(Plain):
    def configure_optimizers(self):
        own = super().configure_optimizers()
        return [own], [torch.optim.lr_scheduler.ReduceLROnPlateau(own)]

for kind in (Plain, Hook, Loaders, Manual, Epoch, Number, Truth, Loader, Several, Plateau,
             Momentum, Old, Nothing, torch.nn.Identity):
    make, loss, optimizer, schedule = program(lambda config, classes: kind())
    try:
        model = make(None, 2)
        loss(model, Batch(torch.ones(3, 2), torch.ones(3)))
        loss(model.eval(), Batch(torch.ones(3, 2), torch.ones(3)))
        optimizer(None, [{"lr": 1.0}])
        schedule(None, 4, 2)
        print(kind.__name__, "taken")
    except ModelError as error:
        print(kind.__name__, error)
"""
REFUSED = """
Plain taken
Hook found on_train_epoch_end, which a trainer would call
Loaders found val_dataloader, which a trainer would call
Manual found automatic_optimization = False
Epoch uses trainer.current_epoch, but there is no trainer
Number uses batch_idx; a step may depend on its batch alone.
Truth uses batch_idx; a step may depend on its batch alone.
Loader validation_step: takes dataloader_idx, expected a batch and batch_idx.
Several found SGD, SGD, expected one optimizer
Plateau expected one scheduler, a function of the step.
Momentum moves more than the rate, expected that alone
Old found training_epoch_end, which a trainer would call
Nothing found no training_step, expected a LightningModule
Identity found no training_step, expected a LightningModule
"""


def printed(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_what_a_module_leaves_to_a_trainer_is_refused_by_name(libraries: None) -> None:
    for line, expected in zip(printed(MODULES), REFUSED.strip().splitlines(), strict=True):
        kind, _, words = expected.partition(" ")
        assert line.startswith(f"{kind} ") and words in line


CHOSEN = """
import lightning as L, torch
from lockstep.adapters.lightning import program
from lockstep.program import Batch

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, batch_idx=0):
        return {"loss": (self.layer(batch["x"]) - batch["y"]).square().mean()}
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.layer(batch["x"])  # answers, which are no loss
    def configure_optimizers(self):
        steps = self.trainer.estimated_stepping_batches
        own = torch.optim.SGD(self.parameters(), lr=0.5)
        rates = torch.optim.lr_scheduler.LambdaLR(own, lambda step: step / steps)
        return {"optimizer": own, "lr_scheduler": {"scheduler": rates, "interval": "step"}}
    def on_train_start(self): raise RuntimeError

make, loss, optimizer, schedule = program(
    lambda config, classes: Module(),
    batch=lambda x, y: {"x": x, "y": y},
    without=["on_train_start"],
)
model, examples = make(None, 1), Batch(torch.ones(3, 2), torch.ones(3, 1))
own, rate = optimizer(None, [{"lr": 1.0}]), schedule(None, 4, 2)
with torch.no_grad():
    print(torch.equal(loss(model, examples), loss(model.eval(), examples)))
print([rate(step) * own.param_groups[0]["factor"] for step in range(4)])
"""


def test_a_step_gets_its_own_kind_of_batch_and_a_schedule_knows_the_steps(libraries: None) -> None:
    assert printed(CHOSEN) == ["True", "[0.0, 0.125, 0.25, 0.375]"]


RATES = """
import lightning as L, torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from lockstep.adapters.lightning import program

class Module(L.LightningModule):
    def __init__(self, interval):
        super().__init__()
        self.layer, self.interval = torch.nn.Linear(2, 2), interval
    def training_step(self, batch, batch_idx): pass
    def configure_optimizers(self):
        own = torch.optim.AdamW(self.parameters(), lr=0.5)
        if self.interval == "epoch":
            return [own], [StepLR(own, 1, 0.5)]
        how = {"scheduler": OneCycleLR(own, 0.5, 12, cycle_momentum=False), "interval": "step"}
        return {"optimizer": own, "lr_scheduler": how}

for interval in ("epoch", "step"):
    make, _, optimizer, schedule = program(lambda config, classes: Module(interval))
    module = make(None, 2)
    own = optimizer(None, [{"lr": 1.0}])
    found = schedule(None, 12, 3)
    plain = module.configure_optimizers()
    if interval == "epoch":
        (plain,), (scheduler,) = plain
    else:
        plain, scheduler = plain["optimizer"], plain["lr_scheduler"]["scheduler"]
    plain.step()
    for step in range(12):
        rate = found(step) * own.param_groups[0]["factor"]
        assert abs(rate - plain.param_groups[0]["lr"]) < 1e-12, (interval, step)
        if interval == "step" or step % 4 == 3:
            scheduler.step()
    print(interval, own.param_groups[0]["fused"])
"""


def test_rates_are_those_of_the_modules_own_scheduler(libraries: None) -> None:
    assert printed(RATES) == ["epoch True", "step True"]


TOKENS = """
import torch
from transformers import BartConfig, BartForCausalLM, BertConfig, BertForMaskedLM, BertModel
from transformers import GPT2Config, GPT2LMHeadModel
from lockstep.adapters.transformers import program
from lockstep.ground.errors import ModelError
from lockstep.program import Batch

small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
causal = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)
bart = BartConfig(vocab_size=40, d_model=16, decoder_layers=1, decoder_attention_heads=2)
for kind, config in (
    (GPT2LMHeadModel, causal), (BertForMaskedLM, BertConfig(**small)), (BartForCausalLM, bart)
):
    make, loss = program(lambda *_: kind(config))
    model = make(None, 0).eval()
    ids = torch.arange(8 * 9).reshape(8, 9) % 40
    labels = torch.where(torch.arange(9) < torch.arange(1, 9)[:, None], ids, -100)
    labels[:2] = -100
    inputs = {"input_ids": ids, "labels": labels}
    cuts = [{name: one[i : i + 2] for name, one in inputs.items()} for i in range(0, 8, 2)]
    shards = [loss(model, Batch(cut, torch.zeros(2, 0))) for cut in cuts]
    weight = sum(one.weights.sum() for one in shards)
    mean = sum((one.values * one.weights).sum() for one in shards) / weight
    print(kind.__name__, torch.isclose(mean, model.inner(**inputs).loss).item())
make, loss = program(lambda *_: BertModel(BertConfig(**small)))
try:
    loss(make(None, 0), Batch({"input_ids": ids}, torch.zeros(8, 0)))
except ModelError as error:
    print(error)
"""


def test_a_mean_over_tokens_is_that_of_the_whole_batch_however_it_is_cut(libraries: None) -> None:
    assert printed(TOKENS) == [
        "GPT2LMHeadModel True",
        "BertForMaskedLM True",
        "BartForCausalLM True",  # labels stay where they are, whatever its name says
        "BertModel: returned no loss; take the class of your task, such as "
        "...ForSequenceClassification.",
    ]
