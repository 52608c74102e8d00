"""Settings: typed, listed, and every mistake reported at once, with what would be right."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.config.experiment import Experiment, setting
from lockstep.config.recipe import Source, explain, resolve
from lockstep.ground import home
from lockstep.ground.errors import SettingError
from lockstep.tests.conftest import command, experiment

Resolve = Callable[..., tuple[Experiment, dict[str, Source]]]


@pytest.fixture
def resolved(tmp_path: Path) -> Resolve:
    """Resolve a recipe given as text: ``resolved("training:\\n  lr: 1", "training.epochs=2")``."""

    def resolve_text(
        recipe: str | bytes = "", *overrides: str, model: str = "digits", seed: int = 0
    ) -> tuple[Experiment, dict[str, Source]]:
        path = tmp_path / model / "recipes" / "mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
        return resolve(model, path, home.here().config_of(model), seed=seed, overrides=overrides)

    return resolve_text


def problems(call: Callable[[], object]) -> list[str]:
    """The lines that a call is refused with."""
    with pytest.raises(SettingError) as error:
        call()
    return str(error.value).splitlines()


def test_all_mistakes_are_told_at_once_each_with_its_place_and_what_would_be_right(
    resolved: Resolve,
) -> None:
    recipe = "data:\n  name: digits\nmodel:\n  dropuot: 0.1\ntraining:\n  lr: fast\n  epochs: 0\n"
    overrides = ("training.batchsize=64", "model.dropout=0.99", "training.lr", "training.shards=6")
    assert problems(lambda: resolved(recipe, *overrides, seed=-1)) == [
        "training.lr: found no '=', expected key=value, e.g. training.epochs=5",
        "seed: found -1, expected int from 0 to 9223372036854775807",
        "digits/recipes/mine.yaml: model.dropuot: no such setting. Did you mean model.dropout? "
        "(python -m lockstep config digits lists all)",
        "digits/recipes/mine.yaml: training.lr: found 'fast', expected float, at least 0",
        "digits/recipes/mine.yaml: training.epochs: found 0, expected int, at least 1",
        "override: training.batchsize: no such setting. Did you mean training.batch_size? "
        "(python -m lockstep config digits lists all)",
        "override: model.dropout: found 0.99, expected float from 0 to 0.95",
        "override: training.shards: found 6, expected int, a power of two from 1 to 256",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=2.5", "found 2.5, expected int, at least 1"),
        ("training.epochs=many", "found 'many', expected int, at least 1"),
        ("training.epochs=true", "found True, expected int, at least 1"),
        ("training.epochs=", "found None, expected int, at least 1"),
        ("training.lr=[0.1]", "found [0.1], expected float, at least 0"),
        ("training.lr={a: 1}", "found {'a': 1}, expected float, at least 0"),
        ("training.lr=.nan", "found nan, expected float, at least 0"),
        ("training.lr=.inf", "found inf, expected float, at least 0"),
        ("training.optimizer=sdg", "found 'sdg', expected str out of adamw, adam, sgd"),
        ("training.monitor=5", "found 5, expected str"),
        ("data.name=[digits]", "found ['digits'], expected str"),
        ("data.name=5", "found 5, expected str"),
        ("model.flip=2", "found 2, expected bool"),
        ("model.widths=16", "found 16, expected list[int], at least 1"),
        ("model.widths=[16, 32, 0]", "found [16, 32, 0], expected list[int], at least 1"),
        ("model.widths=[[1], 2, 3]", "found [[1], 2, 3], expected list[int], at least 1"),
        ("model.blocks=[0.5, 1]", "found [0.5, 1], expected list[int], at least 0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(
    resolved: Resolve, override: str, message: str
) -> None:
    key = override.partition("=")[0]
    found = problems(lambda: resolved("", override, model="apparel"))
    assert found == [f"override: {key}: {message}"]


def test_mistakes_in_budgets_are_told_with_all_others(resolved: Resolve) -> None:
    recipe = "accept:\n  tset.accuracy: '>= 0.9'\n  size_mb: 5\ntraining:\n  lr: fast\n"
    overrides = ("accept.test.f1=>= 0.9", "accept.latency_ms=fast", "acept.size_mb=< 1", "accept=3")
    found = problems(lambda: resolved(recipe, *overrides))
    bound = "expected a bound such as '>= 0.92' or '<= 5'"
    assert found == [
        "digits/recipes/mine.yaml: accept.tset.accuracy: no such measure. (there are test.METRIC, "
        "validation.METRIC, size_mb, latency_ms)",
        f"digits/recipes/mine.yaml: accept.size_mb: found 5, {bound}",
        "digits/recipes/mine.yaml: training.lr: found 'fast', expected float, at least 0",
        f"override: accept.latency_ms: found 'fast', {bound}",
        "override: acept.size_mb: no such setting. Did you mean accept.size_mb? "
        "(python -m lockstep config digits lists all)",
        "override: accept: found 3, expected measures with a bound each, such as "
        "test.accuracy: '>= 0.92'",
    ]


def test_budgets_are_listed_after_the_settings(resolved: Resolve) -> None:
    config, written = resolved("accept:\n  size_mb: '<=5'\n", "accept.test.f1=>.5")
    assert config.accept == {"size_mb": "<= 5", "test.f1": "> 0.5"}
    lines = [(line.key, line.value, line.source) for line in explain(config, written)[-2:]]
    assert lines == [
        ("accept.size_mb", "<= 5", "digits/recipes/mine.yaml"),
        ("accept.test.f1", "> 0.5", "override"),
    ]
    assert resolved("accept:\n")[0].accept == {}


def test_settings_that_do_not_go_together_are_refused(resolved: Resolve) -> None:
    assert problems(lambda: resolved("", "model.widths=[8, 16]", model="apparel")) == [
        "model.blocks: found 2 stages, expected 1, one for each of model.widths after the first"
    ]


def test_a_whole_number_becomes_a_float_where_that_is_the_type(resolved: Resolve) -> None:
    config, _ = resolved("", "training.lr=1", "model.class_weights=[1, 1e-3]", model="tags")
    assert repr((config.training.lr, config.settings.class_weights)) == "(1.0, [1.0, 0.001])"


@pytest.mark.parametrize(
    ("type", "default", "message"),
    [
        (int, 0.5, "its default does not fit: found 0.5, expected int, at least 0."),
        (int, -1, "its default does not fit: found -1, expected int, at least 0."),
        (float | None, "no", "its default does not fit: found 'no', expected float | None, "),
        (complex, 1j, "found the type <class 'complex'>, expected bool, int, float, str, "),
        (tuple[int, ...], (1,), "found the type tuple[int, ...], expected bool, int, float, "),
        (list, [1], "found the type <class 'list'>, expected bool, int, float, str, "),
        (dict[int, str], {}, "found the type dict[int, str], expected bool, int, float, str, "),
        (int, dataclasses.MISSING, "has no default; write setting(DEFAULT, 'a line of help')."),
    ],
)
def test_a_setting_that_no_recipe_could_state_is_refused_by_name(
    tmp_path: Path, type: object, default: object, message: str
) -> None:
    item = setting(default, "help", low=0)
    config = dataclasses.make_dataclass("Config", [("rate", type, item)], frozen=True)
    (line,) = problems(lambda: resolve("mine", tmp_path / "none.yaml", config))
    assert line.startswith(f"types.Config.rate: {message}")


@pytest.mark.parametrize(
    ("recipe", "found"),
    [
        ("- training\n- lr\n", "found list, expected sections of settings."),
        ("training: {lr: 1", "not readable as YAML: while parsing a flow mapping"),
        (
            "data: {name: digits}\ntraining:\n  lr: 0.1\ntraining:\n  epochs: 3\n",
            "not readable as YAML: training: found twice (lines 2 and 4), expected once",
        ),
        (
            "accept:\n  test.accuracy: '>= 0.99'\n  test.accuracy: '>= 0.1'\n",
            "not readable as YAML: test.accuracy: found twice (lines 2 and 3), expected once",
        ),
        ("training: {epochs: 0100}\n", "training.epochs: found '0100', expected int, at least 1"),
        ("training: {epochs: 1:30}\n", "training.epochs: found '1:30', expected int, at least 1"),
        ("[" * 3000, "not readable as YAML: nested too deeply; correct it."),
        ("training: {epochs: !!int many}\n", "not readable as YAML: invalid literal for int()"),
        (b"\xff\xfe", "not readable as YAML: 'utf-8' codec can't decode byte 0xff"),
        ("lr: 1\n", "lr: no such setting. Did you mean training.lr?"),
    ],
)
def test_a_recipe_that_is_no_recipe_is_refused_by_its_file(
    resolved: Resolve, recipe: str | bytes, found: str
) -> None:
    (line,) = problems(lambda: resolved(recipe))
    assert ("recipes/mine.yaml: " + found) in line


def test_an_empty_recipe_is_all_defaults(resolved: Resolve) -> None:
    config, written = resolved("")
    parts = (config.data, config.settings, config.training)
    assert (parts, written) == (tuple(type(part)() for part in parts), {})


def test_an_empty_section_sets_nothing_and_a_mistyped_one_is_refused(resolved: Resolve) -> None:
    recipe = "data:\n  name: digits\nmodel:\ntraining:\n"
    assert resolved(recipe) == resolved("data:\n  name: digits\n")
    assert resolved(recipe, "training.epochs=2")[0].training.epochs == 2
    hint = "no such setting. Did you mean training.lr? (python -m lockstep config digits lists all)"
    assert problems(lambda: resolved("trainings:\n", "training=")) == [
        f"digits/recipes/mine.yaml: trainings: {hint}",
        f"override: training: {hint}",
    ]


def test_an_override_wins_over_the_recipe_and_1e_3_is_a_number(resolved: Resolve) -> None:
    recipe = "training:\n  lr: 1e-4\n  epochs: 3\n"
    training = resolved(recipe, "training.lr=1e-3", "training.clip=1")[0].training
    assert (training.lr, training.epochs, training.clip) == (1e-3, 3, 1.0)


def test_text_stays_the_text_that_it_is(resolved: Resolve) -> None:
    assert resolved("", "data.name=${oc.env:HOME}")[0].data.name == "${oc.env:HOME}"
    assert resolved("data:\n  name: '???'\n")[0].data.name == "???"


def test_a_list_in_a_recipe_becomes_a_plain_list(resolved: Resolve) -> None:
    settings = resolved("model:\n  widths: [4, 8]\n  blocks: [2]\n", model="apparel")[0].settings
    assert (settings.widths, type(settings.widths)) == ([4, 8], list)


def test_explain_tells_every_setting_and_where_it_came_from(resolved: Resolve) -> None:
    config, written = resolved("training:\n  lr: 0.5\n", "training.epochs=2", model="apparel")
    lines = {line.key: line for line in explain(config, written)}
    parts = {"data": config.data, "model": config.settings, "training": config.training}
    parts |= {"start": config.start}
    keys = [f"{name}.{f.name}" for name, part in parts.items() for f in dataclasses.fields(part)]
    assert list(lines) == keys
    assert all(line.help for line in lines.values())
    told = [lines[f"training.{name}"] for name in ("lr", "epochs", "shards")]
    assert [(line.value, line.type, line.source) for line in told] == [
        (0.5, "float, at least 0", "apparel/recipes/mine.yaml"),
        (2, "int, at least 1", "override"),
        (8, "int, a power of two from 1 to 256", "default"),
    ]


def test_what_decides_no_bit_is_not_in_the_identity() -> None:
    config = experiment()
    everything, bits = config.as_dict(), config.as_dict(bits_only=True)
    left_out = {"workers", "loaders"} | {
        *("checkpoint_every", "checkpoint_seconds", "keep_checkpoints")
    }
    assert set(everything["training"]) - set(bits["training"]) == left_out
    assert bits["model"] == everything["model"]
    assert experiment("digits/base", "training.loaders=2").as_dict(bits_only=True) == bits
    assert experiment("digits/base", "training.lr=1").as_dict(bits_only=True) != bits


def test_the_config_verb_prints_a_line_for_each_setting() -> None:
    done = command("config", "digits", "training.lr=0.5")
    head, *rows = done.stdout.splitlines()
    columns = [head.index(word) for word in ("setting", "value", "type", "from", "meaning")]
    (row,) = [row for row in rows if row.startswith("training.lr ")]
    cells = [row[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)]
    assert cells == ["training.lr", "0.5", "float, at least 0", "override", "peak learning rate"]


def test_the_config_verb_speaks_json() -> None:
    rows = json.loads(command("config", "apparel", "--json").stdout)
    found = {row["key"]: row["value"] for row in rows}
    assert (found["data.name"], found["training.shards"]) == ("fashion-mnist", 8)


def test_the_config_verb_tells_mistakes_and_exits_with_2() -> None:
    done = command("config", "digits", "training.epoch=5")
    told = (
        "error: override: training.epoch: no such setting. Did you mean training.epochs? "
        "(python -m lockstep config digits lists all)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


@pytest.mark.parametrize(
    ("section", "name", "default", "other"),
    [
        ("training", "precision", "float32", "bf16"),
        ("data", "sampling", "shuffled", "balanced"),
        ("data", "drop_last", "false", "true"),
    ],
)
def test_a_newer_setting_at_its_default_is_in_no_identity(
    section: str, name: str, default: str, other: str
) -> None:
    usual = experiment("digits/base", f"{section}.{name}={default}").as_dict(bits_only=True)
    assert usual == experiment("digits/base").as_dict(bits_only=True)
    assert name not in usual[section]
    changed = experiment("digits/base", f"{section}.{name}={other}").as_dict(bits_only=True)
    assert name in changed[section]
