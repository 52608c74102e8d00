"""What a brought model may do, and what is refused by name before the first step."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lockstep.ground.errors import ModelError, RunError
from lockstep.ground.place import Place
from lockstep.records.run import Run
from lockstep.tests.conftest import mostly_slow
from lockstep.tests.projects import NETWORK, Bring

PREPROCESS = Path(__file__).parents[2] / "examples" / "models" / "digits" / "preprocess.py"
AUGMENT = '''        """Each picture moved by up to ``shift`` pixels, in training only."""'''


def model(init: str = "", forward: str = "", loss: str = "") -> str:
    """The network with lines added to its methods."""
    text = NETWORK.replace("        super().__init__()\n", f"        super().__init__()\n{init}")
    start = "    def forward(self, inputs):\n"
    text = text.replace(start, f"{start}{forward}")
    return text.replace("    inputs, labels = batch\n", f"    inputs, labels = batch\n{loss}")


def augment(lines: str, imports: str = "") -> str:
    """The preprocessing of digits with lines added to its augmentation."""
    text = PREPROCESS.read_text().replace(AUGMENT, lines)
    return text.replace("import numpy as np\n", f"import numpy as np\n{imports}", 1)


def weights(run: Run) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = safetensors.torch.load_file(run.folder / "weights.safetensors")
    return found


def digest(run: Run) -> str:
    assert run.receipt
    return run.receipt["results"]["weights_sha256"]


REFUSED = {
    "a buffer that is assigned": (
        model(
            "        self.register_buffer('seen', torch.zeros(()))\n",
            "        self.seen = self.seen + 1\n        inputs = inputs + 0 * self.seen\n",
        ),
        "seen: another tensor was assigned to it in a step",
    ),
    "a counter of Python": (
        model("        self.calls = 0\n", "        self.calls += 1\n"),
        r"Model\.calls: changes in every step and is in no checkpoint",
    ),
    "a counter in a list": (
        model("        self.calls = [0]\n", "        self.calls[0] += 1\n"),
        r"Model\.calls: changes in every step",
    ),
    "a counter of the module": (
        model(forward="        global CALLS\n        CALLS += 1\n") + "\nCALLS = 0\n",
        r"model\.CALLS: changes in every step",
    ),
    "a counter of the class": (
        model(forward="        Model.calls += 1\n") + "\nModel.calls = 0\n",
        r"Model\.calls: changes in every step",
    ),
    "chance of its own": (
        model(forward="        import os\n        inputs = inputs + os.urandom(1)[0]\n"),
        "loss or Model: step 1, shard 0 has other bits when it is computed again",
    ),
    "a teacher that follows in the loss": (
        model(loss="    with torch.no_grad():\n        model.classifier.bias.mul_(0.9)\n"),
        r"loss: it changed the parameter classifier\.bias",
    ),
    "a loss that is no mean": (
        NETWORK.replace("labels)", "labels, weight=torch.arange(1.0, 11.0))"),
        "loss: not the mean over its examples",
    ),
    "a sum": (
        NETWORK.replace("labels)", "labels, reduction='sum')"),
        "loss: not the mean over its examples",
    ),
    "a buffer of float64 that moves": (
        model(
            "        self.register_buffer('mean', torch.zeros(2, dtype=torch.float64))\n",
            "        self.mean += 1\n",
        ),
        "mean: a buffer of float64 changed in a step",
    ),
    "a parameter of complex numbers": (
        model(
            "        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))\n",
            "        inputs = inputs * self.phase.abs().mean()\n",
        ),
        "phase: found a parameter of complex64, expected float32",
    ),
    "a parameter that nothing reaches": (
        model("        self.spare = nn.Parameter(torch.ones(2, 2))\n"),
        "spare: no gradient reaches it in step 1",
    ),
    "a loss that takes gradients away": (
        model(loss="    model.zero_grad()\n"),
        "its gradient was taken away or replaced in a step",
    ),
    "memory that is replaced": (
        model(forward="        bias = self.classifier.bias\n        bias.data = bias.data * 1\n"),
        r"classifier\.bias: another tensor was assigned to it",
    ),
    "a package that is loaded by a call": (
        model("        __import__('pycpar' + 'ser')\n"),
        r"model\.py: loads pycparser by a call, so its version is part of no identity",
    ),
    "nothing to train": (
        model().replace(
            "        self.classifier = nn.Linear(16, classes)\n",
            "        self.classifier = nn.Linear(16, classes)\n"
            "        self.requires_grad_(False)\n",
        ),
        "no parameter with requires_grad found",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_law_is_refused_by_name_before_the_first_step(
    bring: Bring, place: Place, name: str
) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason) as error:
        bring(model=text).train(place)
    assert len(str(error.value).splitlines()) == 1
    assert list(place.runs.glob("*/trace.bin")) == [] or not any(
        path.stat().st_size for path in place.runs.glob("*/trace.bin")
    )


COUNT = "        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))\n"
LATE = {
    "a value that moves": (
        "            self.scale = getattr(self, 'scale', 0) + 1\n",
        r"step \d+: Model\.scale: changes in every step and is in no checkpoint",
    ),
    "a part that is switched": (
        "            self.dropout.eval()\n",
        r"step \d+: dropout: switched to evaluation mode in a step",
    ),
    "a parameter that is frozen": (
        "            self.classifier.bias.requires_grad_(False)\n",
        r"step \d+: classifier\.bias: requires_grad became False in a step",
    ),
    "a tensor that is replaced": (
        "            self.steps = self.steps + 0\n",
        r"step \d+: steps: another tensor was assigned to it in a step",
    ),
    "an expert that is not asked": (
        "            return self.features[1](inputs.flatten(1))[:, :10] + 0 * self.steps\n",
        r"step \d+: classifier\.weight: no gradient reached it in step 1\d, and yet weight decay",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_breaks_a_law_after_some_steps_is_refused_at_the_end_of_the_epoch(
    bring: Bring, place: Place, name: str
) -> None:
    lines, reason = LATE[name]
    late = f"        self.steps += 1\n        if self.steps > 9:\n{lines}"
    with pytest.raises(ModelError, match=reason):
        bring(model=model(COUNT, late)).train(place, "training.epochs=6")


AUGMENTS = {
    "NumPy's": augment("        inputs = inputs * float(np.random.rand())\n"),
    "Python's": augment("        inputs = inputs * random.random()\n", "import random\n"),
    "torch's": augment("        inputs = inputs + torch.randn_like(inputs)\n"),
}


@pytest.mark.parametrize("name", mostly_slow([*AUGMENTS]))
def test_chance_from_any_default_generator_is_the_same_after_a_stop(
    bring: Bring, place: Place, name: str
) -> None:
    project = bring(preprocess=AUGMENTS[name])
    whole = project.train(place, runs="whole")
    project.train(place, until=4)
    np.random.rand()
    torch.rand(1)
    assert digest(project.train(place)) == digest(whole)


def test_a_generator_that_nobody_seeds_is_refused(bring: Bring, place: Place) -> None:
    own = augment("        inputs = inputs + np.random.default_rng().random()\n")
    with pytest.raises(ModelError, match="Preprocess: step 1, shard 0 has other bits"):
        bring(preprocess=own).train(place)


CONSTANTS = {
    "complex": "torch.polar(torch.ones(4, 3), torch.randn(4, 3))",
    "whole": "torch.tensor([2**40 + 1, -3, 2**62])",
    "range": "torch.arange(64.0)",
    "tenth": "torch.full((7,), 0.1)",
    "double": "torch.tensor([0.1], dtype=torch.float64)",
    "half": "torch.tensor([0.1], dtype=torch.float16)",
    "truth": "torch.tensor([True, False])",
}


def test_buffers_that_nobody_changes_keep_every_byte(bring: Bring, place: Place) -> None:
    lines = [f"        self.register_buffer('a_{n}', {text})\n" for n, text in CONSTANTS.items()]
    project = bring(model=model("".join(lines)))
    run = project.train(place, "training.batch_size=20")  # shards of two and of three
    for kind, text in CONSTANTS.items():
        kept = weights(run)[f"a_{kind}"]
        assert kept.dtype == eval(text).dtype
        if kind != "complex":
            assert torch.equal(kept, eval(text))
    torch.default_generator.manual_seed(0)


def test_whole_numbers_that_advance_are_exact(bring: Bring, place: Place) -> None:
    project = bring(
        model=model(
            "        self.register_buffer('seen', torch.tensor([2**40]))\n",
            "        self.seen += 2**33 + 1 if self.training else 0\n",
        )
    )
    assert weights(project.train(place))["seen"].tolist() == [2**40 + 10 * (2**33 + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("training.average=0.9",), ("training.optimizer=sgd",)])
def test_frozen_parameters_keep_every_byte(
    bring: Bring, place: Place, settings: tuple[str, ...]
) -> None:
    frozen = NETWORK.replace(
        "        self.dropout",
        "        self.features[1].weight.data.fill_(0.1)\n"
        "        self.features.requires_grad_(False)\n        self.dropout",
    )
    run = bring(model=frozen).train(
        place, "training.weight_decay=0.1", "training.lr=0.1", *settings
    )
    assert torch.equal(weights(run)["features.1.weight"], torch.full((16, 64), 0.1))


def test_parts_in_evaluation_mode_stay_in_it(bring: Bring, place: Place) -> None:
    part = NETWORK.replace("nn.ReLU())\n", "nn.ReLU(), nn.BatchNorm1d(16).eval())\n")
    project = bring(model=part)
    kept = weights(project.train(place))
    assert kept["features.3.num_batches_tracked"].item() == 0
    assert torch.equal(kept["features.3.running_mean"], torch.zeros(16))


def test_tied_weights_train_to_a_receipt_and_answer(bring: Bring, place: Place) -> None:
    tied = NETWORK.replace(
        "        self.classifier = nn.Linear(16, classes)\n",
        "        self.middle = nn.Linear(16, 16)\n        self.again = nn.Linear(16, 16)\n"
        "        self.again.weight = self.middle.weight\n"
        "        self.classifier = nn.Linear(16, classes)\n",
    ).replace(
        "self.dropout(self.features(inputs))", "self.again(self.middle(self.features(inputs)))"
    )
    project = bring(model=tied)
    run = project.train(place)
    kept = weights(run)
    assert torch.equal(kept["again.weight"], kept["middle.weight"])
    predictor = project.home.module("brought").Predictor.load(run.folder)
    assert predictor.predict([np.zeros((8, 8))])[0]["label"] in predictor.preprocess.labels


def test_a_last_batch_too_small_for_batch_statistics_is_refused(bring: Bring, place: Place) -> None:
    project = bring(model=NETWORK.replace("nn.ReLU())\n", "nn.ReLU(), nn.BatchNorm1d(16))\n"))
    with pytest.raises(ModelError, match=r"the batch of step 5 has 8 examples in 8 shards"):
        project.train(place)
    assert project.train(place, "data.limit=80").receipt


def test_what_is_loaded_by_importlib_is_refused(bring: Bring, place: Place) -> None:
    project = bring(
        model="import importlib\n" + model("        importlib.import_module(config.late)\n")
    )
    (project.home.folder / "late.py").write_text("GAIN = 1\n")
    config = (project.model / "config.py").read_text()
    more = f'    late: str = setting("{project.package}.late", "a module")\n\n    @property'
    (project.model / "config.py").write_text(config.replace("    @property", more, 1))
    with pytest.raises(ModelError, match=r"late\.py: the module .* is part of no identity"):
        project.train(place)


def test_a_file_from_elsewhere_is_refused_and_one_beside_the_code_is_not(
    bring: Bring, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "gain.txt").write_text("1.0\n")
    path = "from pathlib import Path\n"
    reading = "        self.gain = float(Path({!r}).read_text())\n"
    project = bring(model=path + model(reading.format(str(tmp_path / "gain.txt"))))
    with pytest.raises(ModelError, match=r"gain\.txt: was read while the model was set up"):
        project.train(place)
    inside = bring(model=path + model(reading.format("@")))
    (inside.model / "gain.txt").write_text("1.0\n")
    text = (inside.model / "model.py").read_text().replace("@", str(inside.model / "gain.txt"))
    (inside.model / "model.py").write_text(text)
    assert inside.train(place, "model.width=8").receipt


def test_a_cache_that_settles_is_no_state(bring: Bring, place: Place) -> None:
    lines = "        self.cache.setdefault(inputs.shape[-1], 1.0)\n"
    assert bring(model=model("        self.cache = {}\n", lines)).train(place).receipt


def test_preprocessing_that_differs_when_a_run_is_resumed_is_refused(
    bring: Bring, place: Place
) -> None:
    fitted = PREPROCESS.read_text().replace(
        'float(f"{mean:.9g}")', "float(f\"{mean:.9g}\") + len(os.environ.get('SPOT', ''))"
    )
    project = bring(
        preprocess=fitted.replace("import numpy as np\n", "import os\n\nimport numpy as np\n")
    )
    project.train(place, until=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPOT", "here")
        with pytest.raises(
            RunError, match="preprocessing: found other bits than when the run began"
        ):
            project.train(place)
    assert project.train(place).receipt


def test_a_model_that_answers_with_no_number_here_and_there_ends_with_a_receipt(
    bring: Bring, place: Place
) -> None:
    """In evaluation only, for pictures with a certain first pixel row; counted, and as wrong."""
    lines = "        if not self.training:\n            some = inputs[:, 0, 1, 1] > 0.5\n"
    lines += (
        "            inputs = inputs + torch.where(some, torch.nan, 0.0)[:, None, None, None]\n"
    )
    run = bring(model=model(forward=lines)).train(place)
    assert run.receipt
    found = run.receipt["results"]["metrics"]
    assert 0 < found["validation"].get("not_finite", 0) < 180
    assert 0 < found["test"].get("not_finite", 0) < 360
    assert np.isfinite(found["test"]["loss"])


def test_an_operation_of_evaluation_alone_lowers_the_level(bring: Bring, place: Place) -> None:
    only = "        if not self.training:\n            inputs = torch.sqrt(inputs.abs())\n"
    run = bring(model=model(forward=only)).train(place)
    assert run.finished_receipt()["level"]["lowered"] == [
        "operation aten.sqrt.default: not verified"
    ]


def test_chance_in_training_is_no_reason_to_refuse_a_mean(bring: Bring, place: Place) -> None:
    noisy = "        inputs = inputs + self.training * torch.randn_like(inputs)\n"
    assert bring(model=model(forward=noisy)).train(place).receipt


def test_a_mask_of_infinite_values_stays_as_it_is(bring: Bring, place: Place) -> None:
    mask = "        self.register_buffer('mask', torch.full((4, 4), float('-inf')).triu(1))\n"
    run = bring(model=model(mask)).train(place)
    assert torch.equal(weights(run)["mask"], torch.full((4, 4), float("-inf")).triu(1))


MISTAKES = {
    "Preprocess.fit": (
        {"preprocess": PREPROCESS.read_text().replace("inputs.mean()", "inputs.mean(9)")},
        r"Preprocess\.fit: AxisError: .* \(preprocess\.py, line \d+\), for uint8 \(\d+, 8, 8\)",
    ),
    "Model": (
        {"model": model("        self.wrong = nn.Linear(config.width, 'x')\n")},
        r"Model: TypeError: .* \(model\.py, line \d+\) for 10 outputs",
    ),
    "loss or Model": (
        {"model": model(forward="        inputs = inputs[:, 0, :7]\n")},
        r"loss or Model: RuntimeError: .* \(model\.py, line \d+\), for inputs float32 \(\d+, 1, 8",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_an_error_in_a_programs_code_is_one_line_with_its_place_and_shapes(
    bring: Bring, place: Place, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    files, line = MISTAKES[what]
    project = bring(**files)
    with pytest.raises(ModelError, match=line) as error:
        project.train(place)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("LOCKSTEP_TRACEBACK", "1")
    cause = error.value.__cause__
    assert cause is not None
    with pytest.raises(type(cause)):
        project.train(place)


OPTIMIZER = """
class Own(torch.optim.SGD):
    def step(self, closure=None):
        {lines}
        super().step()


def optimizer(config, groups):
    return Own(groups)
"""
AFTER = """
def after_step(model, step):
    model.classifier.bias.add_({number})
"""
STEPS = {
    "an optimizer's counter": (
        OPTIMIZER.format(lines="self.calls = getattr(self, 'calls', 0) + 1"),
        r"optimizer\.calls: changes in every step and is in no checkpoint",
    ),
    "a list in an optimizer's groups": (
        OPTIMIZER.format(lines="self.param_groups[0].setdefault('seen', []).append(1)"),
        r"optimizer\.param_groups\[0\]\['seen'\]: changes in every step",
    ),
    "chance of one's own after a step": (
        AFTER.format(number="int.from_bytes(os.urandom(1), 'big') / 100"),
        r"optimizer or after_step: values has other bits when two steps are taken again",
    ),
}


def says(lines: str) -> str:
    """The model's package with those names that the lines define."""
    names = [name for name in ("optimizer", "after_step") if f"def {name}" in lines]
    package = (PREPROCESS.parent / "__init__.py").read_text()
    return package.replace("import Model, loss", f"import Model, loss, {', '.join(names)}")


@pytest.mark.parametrize("name", mostly_slow([*STEPS]))
def test_what_breaks_a_law_in_the_programs_part_of_a_step_is_refused_before_the_first(
    bring: Bring, place: Place, name: str
) -> None:
    lines, reason = STEPS[name]
    project = bring(model=f"import os\n{model()}\n{lines}", __init__=says(lines))
    with pytest.raises(ModelError, match=f"^{reason}"):
        project.train(place)


@pytest.mark.slow
def test_a_seeded_step_of_the_programs_is_taken(bring: Bring, place: Place) -> None:
    lines = AFTER.format(number="torch.randn(()) / 100") + OPTIMIZER.format(lines="pass")
    project = bring(model=f"{model()}\n{lines}", __init__=says(lines))
    assert digest(project.train(place)) == digest(project.train(place, runs="again"))


@pytest.mark.slow
def test_a_loss_may_be_a_value_for_each_example(bring: Bring, place: Place) -> None:
    each = (
        model()
        .replace("F.cross_entropy(model(inputs), labels)", "{}")
        .format("F.cross_entropy(model(inputs), labels, reduction='none')")
    )
    runs = [bring(model=text).train(place, "training.shards=1") for text in (model(), each)]
    metrics = [run.metrics()[-1]["validation"] for run in runs]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-3)


# What Model.__init__ makes beside weights: state that a checkpoint and an answer do not have.
BESIDE_WEIGHTS = {
    "layers in a list": (
        "self.more = [nn.Linear(16, 16)]",
        "self.more[0](self.features(inputs))",
        "more: found layers in a list, which are neither trained nor stored; expected nn.ModuleL",
    ),
    "layers in a dict": (
        'self.more = {"a": nn.Linear(16, 16)}',
        'self.more["a"](self.features(inputs))',
        "more: found layers in a dict, which are neither trained nor stored; expected nn.ModuleL",
    ),
    "a tensor": (
        "self.more = torch.randn(16)",
        "self.more * self.features(inputs)",
        "more: found a tensor that Model.__init__ draws and that is not stored; expected self.reg",
    ),
    "a buffer that is not stored": (
        'self.register_buffer("more", torch.randn(16), persistent=False)',
        "self.more * self.features(inputs)",
        "two Predictors of the same weights answer differently; Model.__init__ draws something",
    ),
    "a number": (
        "self.more = float(torch.rand(()))",
        "self.more * self.features(inputs)",
        "two Predictors of the same weights answer differently; Model.__init__ draws something",
    ),
    "a lazy layer": (
        "self.more = nn.LazyLinear(16)",
        "self.more(self.features(inputs))",
        "more.weight: found a tensor without a shape, of a lazy layer, expected one; state",
    ),
}


@pytest.mark.parametrize("kind", BESIDE_WEIGHTS)
def test_what_answers_need_and_weights_do_not_hold_is_refused_before_the_first_step(
    bring: Bring, place: Place, kind: str
) -> None:
    made, used, message = BESIDE_WEIGHTS[kind]
    text = NETWORK.replace(
        "        self.classifier", f"        {made}\n        self.classifier", 1
    ).replace("self.features(inputs)", used)
    with pytest.raises(ModelError, match=re.escape(message)):
        bring(model=text).train(place)
    assert not list(place.runs.glob("*/trace.bin"))


# Values that are made at first use, and the place in which the process keeps them.
KEPT = {
    "functools.cache": ("@functools.cache\ndef made(n):\n    return VALUE", "made(16)"),
    "a dict of the module": (
        "KEPT = {}\ndef made(n):\n    if n not in KEPT:\n        KEPT[n] = VALUE\n"
        "    return KEPT[n]",
        "made(16)",
    ),
    "a table of the collections": (
        "import collections\nKEPT = collections.defaultdict(lambda: VALUE)\nn = 16\n"
        "def made(n):\n    return KEPT[n]",
        "made(16)",
    ),
    "a global": (
        "KEPT = None\ndef made(n):\n    global KEPT\n    KEPT = VALUE if KEPT is None else KEPT\n"
        "    return KEPT",
        "made(16)",
    ),
    "an attribute": (
        "def made(self, n):\n    if not hasattr(self, 'kept'):\n        self.kept = VALUE\n"
        "    return self.kept",
        "made(self, 16)",
    ),
}


@pytest.mark.parametrize(
    "kind",
    ["functools.cache", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KEPT)[1:])],
)
def test_a_value_that_is_drawn_at_first_use_is_refused_and_one_that_is_computed_is_not(
    bring: Bring, place: Place, kind: str
) -> None:
    made, used = KEPT[kind]

    def text(value: str) -> str:
        # Without dropout, which would come out otherwise after a draw.
        features = f"{used} * self.features(inputs)"
        network = NETWORK.replace("self.dropout(self.features(inputs))", features)
        return f"import functools\n{network}\n{made.replace('VALUE', value)}\n"

    with pytest.raises(ModelError, match="has other bits when it is computed again"):
        bring(model=text("torch.randn(n)")).train(place)
    assert not list(place.runs.glob("*/trace.bin"))
    assert bring(model=text("torch.linspace(0.5, 1.5, n)")).train(place).receipt


@pytest.mark.parametrize(
    "drawn",
    [
        "np.random.default_rng().random()",
        pytest.param("time.perf_counter_ns()", marks=pytest.mark.slow),
        pytest.param("os.urandom(4)[0]", marks=pytest.mark.slow),
    ],
)
def test_first_weights_that_are_drawn_otherwise_are_refused(
    bring: Bring, place: Place, drawn: str
) -> None:
    made = f"nn.init.constant_(self.classifier.bias, {drawn} % 1000)\n\n    def forward"
    network = NETWORK.replace("    def forward", f"        {made}")
    text = f"import os, time\nimport numpy as np\n{network}"
    with pytest.raises(ModelError, match="found other values when the model was made again"):
        bring(model=text).train(place)


def test_a_loss_that_leads_back_to_no_parameter_is_one_line(bring: Bring, place: Place) -> None:
    text = NETWORK.replace(
        "F.cross_entropy(model(inputs), labels)", "F.cross_entropy(model(inputs).detach(), labels)"
    )
    with pytest.raises(ModelError, match="loss: returned a value that depends on no parameter"):
        bring(model=text).train(place)


def test_chance_in_answers_is_refused_before_the_first_step(bring: Bring, place: Place) -> None:
    text = NETWORK.replace("self.dropout(self.features(inputs))", "F.dropout(inputs.flatten(1))")
    text = text.replace("nn.Linear(16, classes)", "nn.Linear(64, classes)")
    text = text.replace("        self.features = ", "        self.features = nn.Identity()  # ")
    with pytest.raises(ModelError, match="the model draws random numbers when it answers"):
        bring(model=text).train(place)


def test_another_process_that_computes_other_bits_is_refused(bring: Bring, place: Place) -> None:
    """As the order of a set of objects does; here it is a variable that changes in between."""
    text = f"import os\n{NETWORK}".replace(
        "self.classifier(self", "float(os.environ.get('GAIN', 1)) * self.classifier(self"
    )
    project = bring(model=text)
    project.train(place, until=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAIN", "2")
        with pytest.raises(RunError, match="first step: found other bits than when the run began"):
            project.train(place)
    assert project.train(place).receipt


def test_code_that_keeps_the_model_made_last_keeps_the_one_that_is_trained(
    bring: Bring, place: Place
) -> None:
    kept = NETWORK.replace("        self.dropout", "        LAST[:] = [self]\n        self.dropout")
    kept = kept.replace("(model(inputs)", "(LAST[0](inputs)") + "\nLAST = []\n"
    runs = [bring(model=text).train(place).finished_receipt() for text in (NETWORK, kept)]
    digests = [receipt["results"]["weights_sha256"] for receipt in runs]
    assert digests[0] == digests[1]


def test_a_constant_that_is_made_alike_each_time_is_no_state(bring: Bring, place: Place) -> None:
    made = "self.more = torch.randn(16, generator=torch.Generator().manual_seed(3))"
    text = NETWORK.replace(
        "        self.classifier", f"        {made}\n        self.classifier", 1
    ).replace("self.features(inputs)", "self.more * self.features(inputs)")
    assert bring(model=text).train(place).receipt


def test_preprocessing_that_stores_less_than_it_fitted_is_refused(
    bring: Bring, place: Place
) -> None:
    whole = PREPROCESS.read_text()
    forgets = whole.replace('state["deviation"])', "1.0)")
    assert forgets != whole
    with pytest.raises(
        ModelError, match=r"Preprocess\.from_state makes other inputs of an example"
    ):
        bring(preprocess=forgets).train(place)
