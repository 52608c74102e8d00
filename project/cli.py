"""The verbs: ``python -m project train digits/base --seed 42``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from project import models
from project.errors import ImageError, Interrupted, LockstepError, WorkerLost
from project.files import nearest

if TYPE_CHECKING:
    from project.config import Experiment, Source
    from project.records.compare import Comparison

Verb = Callable[[argparse.Namespace], int | None]


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 for "no", 2 for a mistake, 128 + signal when stopped."""
    parser, verbs = _parser()
    words = sys.argv[1:] if words is None else words
    if words and words[0][:1] != "-" and words[0] not in verbs:
        parser.error(
            f"{words[0]}: no such verb.{nearest(words[0], verbs)} (there are {', '.join(verbs)})"
        )
    # argparse takes positional words only in one piece; overrides may also follow the options.
    options, more = parser.parse_known_args(words)
    if more and ("overrides" not in options or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        options.overrides += more
    options.words = words
    try:
        return int(options.verb(options) or 0)
    except (LockstepError, Interrupted, WorkerLost) as end:
        return _told(end)
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 141


def entry() -> NoReturn:
    """The process ``python -m project`` or ``lockstep``, from its words to its exit code."""
    code = main()
    if "RANK" in os.environ:  # gloo's threads have been seen to abort a process that ends slowly
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _told(end: Exception) -> int:
    """Say what ended a verb, to people or to the process that started this worker; the code."""
    from project.training import launch

    if launch.is_watched() and not isinstance(end, WorkerLost):
        return launch.note(end)
    if isinstance(end, Interrupted):
        print(f"{end}; run the same command to go on", file=sys.stderr)
        return 128 + end.signal
    if isinstance(end, WorkerLost):
        print(f"{end}; to be started again from the last checkpoint", file=sys.stderr)
        return 75  # EX_TEMPFAIL of sysexits.h
    print(f"error: {end}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """argparse, with its mistakes told in one line like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (`python -m {self.prog} --help` tells more)\n")


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    parser = _Parser(
        prog="project", description="Lockstep: training runs with the same bits, and a receipt."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: Verb, name: str = "") -> argparse.ArgumentParser:
        text = (function.__doc__ or "").partition("\n")[0]
        added = verbs.add_parser(name or function.__name__, help=text, description=text)
        added.set_defaults(verb=function)
        if function is not new_model:
            added.add_argument("--json", action="store_true", help="print JSON for a script")
        if function in (train, evaluate, predict, runs, compare, reproduce):
            text = "folder of the runs (default: LOCKSTEP_RUNS, or else runs)"
            added.add_argument("--runs", metavar="DIR", help=text)
        return added

    for added in (verb(train), verb(config)):
        added.add_argument("recipe", nargs="?", default="digits/base", metavar="MODEL[/RECIPE]")
        added.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
        added.add_argument("--seed", type=int, default=0)
    train_options = verbs.choices["train"]
    train_options.add_argument("--workers", type=int, metavar="N", help="is training.workers=N")
    train_options.add_argument(
        "--in", dest="image", choices=("cpu", "gpu"), help="train in the image, not on the host"
    )
    train_options.add_argument("--until", type=int, default=0, metavar="STEP", help="stop there")
    for added in (verb(evaluate), verb(predict)):
        added.add_argument("run", metavar="RUN")
    verbs.choices["predict"].add_argument("inputs", nargs="+", metavar="FILE")
    pair = verb(compare)
    pair.add_argument("a", metavar="A")
    pair.add_argument("b", metavar="B")
    pair.add_argument("--report", metavar="FILE", help="write a page that shows where they part")
    again = verb(reproduce)
    again.add_argument("run", metavar="RUN")
    again.add_argument("--steps", type=_count, metavar="N", help="train only so far")
    again.add_argument("--in", dest="image", choices=("cpu", "gpu"), help="train in the image")
    pictures = verb(image)
    pictures.add_argument("action", choices=("build", "shell", "push", "base"))
    pictures.add_argument("name", nargs="?", metavar="REPOSITORY", help="where to push")
    pictures.add_argument("--gpu", action="store_true", help="with torch for CUDA")
    pictures.add_argument("--stage", choices=("develop", "train", "serve"), default="train")
    pictures.add_argument("--offline", action="store_true", help="install from wheelhouse/ alone")
    same = verb(parity)
    same.add_argument("--full", action="store_true", help="apparel/base as well")
    same.add_argument("--gpu", action="store_true", help="the GPU image as well, on the CPU")
    verb(runs).add_argument("--all", action="store_true", help="not only the newest 50")
    verb(doctor)
    verb(new_model, "new-model").add_argument("name")
    return parser, list(verbs.choices)


def _resolved(options: argparse.Namespace) -> tuple["Experiment", dict[str, "Source"]]:
    from project.config import resolve

    if "=" in options.recipe:  # only overrides were given
        options.recipe, options.overrides = "digits/base", [options.recipe, *options.overrides]
    model, _, recipe = options.recipe.partition("/")
    return resolve(
        model,
        models.recipe(model, recipe or "base"),
        models.config_of(model),
        seed=options.seed,
        overrides=options.overrides,
    )


def train(options: argparse.Namespace) -> int:
    """Start a run, go on with it, or report it if it is finished."""
    if options.workers is not None:
        options.overrides.append(f"training.workers={options.workers}")
    experiment, _ = _resolved(options)
    from project.processes import follow_parent
    from project.training import launch, profiles

    settings = experiment.training
    if options.image:
        words = ["train", options.recipe, *options.overrides, "--seed", str(options.seed)]
        words += ["--until", str(options.until)] if options.until else []
        return _in_image(options, words, gpus=settings.device == "cuda")
    profiles.enter(settings.profile)
    workers = launch.count(settings.workers, settings.shards, settings.device)
    if launch.is_worker():
        follow_parent()
    elif workers > 1:
        return launch.by_torchrun(workers, options.words)
    from project import console
    from project.experiment import run_experiment
    from project.place import Place
    from project.watch import Watch

    watch = Watch() if launch.rank() else console.watch()
    run = run_experiment(experiment, Place.default(options.runs), watch, options.until)
    if run is None:  # we are not the first worker, who tells
        return 0
    receipt = run.receipt
    if receipt is None:
        print(f"run {run.folder}\n{run.state}, as told by --until")
    elif options.json:
        print((run.folder / "receipt.json").read_text(), end="")
    else:
        results = receipt["results"]
        print(f"run {run.folder}")
        print(f"weights sha256 {results['weights_sha256']}")
        print(f"test accuracy {results['metrics']['test']['accuracy']:.4f}")
        if receipt["environment"].get("notebook"):
            again = f"`invoke reproduce {run.name}` trains it again from its source alone"
            print(f"trained from a notebook; {again}")
    return 0


def _in_image(options: argparse.Namespace, words: list[str], *, gpus: bool) -> int:
    """Give the same verb in an image, with this machine's runs and data; its exit code."""
    from project import console, images
    from project.place import Place

    place = Place.default(options.runs)
    words += ["--runs", str(place.runs.absolute()), *(["--json"] if options.json else [])]
    keeps = options.verb is reproduce  # a reproduced run with other bits is kept
    return images.run(options.image, words, place, console.watch(), gpus=gpus, keeps=keeps)


def image(options: argparse.Namespace) -> int:
    """Build, enter or push an image, or pin the base image's newest digest."""
    from project import console, images

    torch, watch = "gpu" if options.gpu else "cpu", console.watch()
    if options.action == "shell":
        return images.shell(torch, watch)
    if options.action == "base":
        before, after = images.update_base(watch)
        done = {"before": before, "after": after}
    elif options.action == "push":
        if not options.name:
            raise ImageError("image push: found no repository, wanted one: image push HOST/NAME.")
        done = {"pushed": images.push(options.name, torch, watch)}
    else:
        done = {"built": images.build(options.stage, torch, watch, offline=options.offline)}
    print(json.dumps(done) if options.json else "\n".join(f"{k} {v}" for k, v in done.items()))
    return 0


def parity(options: argparse.Namespace) -> int:
    """Train on the host, in the image and in the dev container; exit 1 if one bit differs."""
    from project import console
    from project.parity import HEAD, differences
    from project.parity import parity as train_everywhere
    from project.place import Place

    recipes = ["digits/base", *(["apparel/base"] if options.full else [])]
    data, watch = Place.default().data, console.watch()
    found = {recipe: train_everywhere(recipe, data, watch, gpu=options.gpu) for recipe in recipes}
    wrong = {recipe: differences(trials) for recipe, trials in found.items()}
    if options.json:
        rows = {recipe: [trial.as_dict() for trial in trials] for recipe, trials in found.items()}
        print(json.dumps({"trials": rows, "differences": wrong}, indent=2))
    else:
        for recipe, trials in found.items():
            print(recipe)
            console.table(HEAD, [trial.row() for trial in trials])
            print("\n".join(wrong[recipe]) or "the same bits, as locked")
    return 1 if any(wrong.values()) else 0


def config(options: argparse.Namespace) -> None:
    """Print every setting of a recipe: value, type, where it came from, what it means."""
    from project.config import explain

    lines = explain(*_resolved(options))
    if options.json:
        print(json.dumps([vars(line) for line in lines], indent=2))
        return
    from project.console import table

    rows = [[line.key, str(line.value), line.type, line.source, line.help] for line in lines]
    table(["setting", "value", "type", "from", "meaning"], rows)


def evaluate(options: argparse.Namespace) -> int:
    """Measure a run's weights on the test split again; exit 1 if its receipt says otherwise."""
    from project import console
    from project.experiment import evaluate_run
    from project.place import Place
    from project.records.receipt import find_run

    place = Place.default(options.runs)
    found, wanted = evaluate_run(find_run(options.run, place.runs), place, console.watch())
    if options.json:
        print(json.dumps({"test": found, "as_in_receipt": found == wanted}, indent=2))
    else:
        print(
            f"test accuracy {found['accuracy']:.4f}  f1 {found['f1']:.4f}  loss {found['loss']:.4f}"
        )
        print("as in the receipt" if found == wanted else "NOT as in the receipt")
    return 0 if found == wanted else 1


def predict(options: argparse.Namespace) -> None:
    """Label files with the model of a run, in the order given."""
    from project.experiment import predictor
    from project.place import Place
    from project.records.receipt import find_run

    run = find_run(options.run, Place.default(options.runs).runs)
    answers = predictor(run).predict(options.inputs)
    if options.json:
        print(json.dumps(answers, indent=2))
        return
    for name, answer in zip(options.inputs, answers, strict=True):
        print(f"{name}: {answer['label']} ({answer['confidence']:.1%})")


def compare(options: argparse.Namespace) -> int:
    """Say whether two runs have the same bits, or where they part and what explains it; or exit 1.

    From their files alone: nothing is trained.
    """
    from pathlib import Path

    from project.files import write_atomically
    from project.place import Place
    from project.records import compare as comparing
    from project.records.receipt import find_run

    folder = Place.default(options.runs).runs
    a, b = find_run(options.a, folder), find_run(options.b, folder)
    found = comparing.compare(a, b)
    if options.report:
        write_atomically(Path(options.report), comparing.page(a, b, found), "--report FILE")
    if options.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print_comparison(found)
    return 0 if found.same else 1


def reproduce(options: argparse.Namespace) -> int:
    """Train a run again from its recorded source and compare bit by bit; exit 1 if they differ."""
    from project import console
    from project.data.arrays import prepared
    from project.place import Place
    from project.records.receipt import find_run
    from project.records.reproduce import reproduce as train_again

    place = Place.default(options.runs)
    run, watch = find_run(options.run, place.runs), console.watch()
    if options.image:
        words = ["reproduce", run.name, *(["--steps", str(options.steps)] if options.steps else [])]
        return _in_image(options, words, gpus=run.parts["profile"]["device"] == "cuda")
    done = train_again(run, place.data, prepared(place.data / "arrays"), watch.say, options.steps)
    if options.json:
        print(json.dumps(done.as_dict(), indent=2))
        return 0 if done.found.same else 1
    _print_comparison(done.found)
    if not done.found.same:
        print(f"reproduced run  {done.kept}\nwhere they part  {done.page}")
    return 0 if done.found.same else 1


def _print_comparison(found: "Comparison") -> None:
    from project.console import table
    from project.records.compare import details

    print(found.verdict)
    for name, text in details(found):
        print(f"{name}  {text}")
    if found.differences:
        rows = [[f"{row.part} {row.name}", row.a, row.b] for row in found.differences]
        table(["what can explain it", f"A {found.names[0]}", f"B {found.names[1]}"], rows)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def runs(options: argparse.Namespace) -> None:
    """List the runs, newest first: state, metric, seed, identity."""
    from project.console import table
    from project.place import Place
    from project.records.receipt import runs as all_runs

    folder = Place.default(options.runs).runs
    found = all_runs(folder)
    shown = len(found) if options.all or options.json else 50
    lines = [run.summary() for run in found[:shown]]
    if options.json:
        print(json.dumps(lines, indent=2))
    elif lines:
        rows = [["" if value is None else str(value) for value in line.values()] for line in lines]
        table(list(lines[0]), rows)
        if older := len(found) - len(lines):
            print(f"and {older:,} older; --all lists them", file=sys.stderr)
    else:
        print(f"no runs in {folder}; `invoke train --seed 42` makes one")


def doctor(options: argparse.Namespace) -> int:
    """Check interpreter, lock, variables, CPU, GPU, disk and docker; exit 1 if something is off."""
    from project.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.name}: {finding.text}")
    return 0 if all(finding.ok for finding in findings) else 1


def new_model(options: argparse.Namespace) -> None:
    """Write a model folder that trains, with its test."""
    from project.models.new import write_model

    for path in write_model(options.name):
        print(path)
    print(f"train it: invoke train --model {options.name}")
