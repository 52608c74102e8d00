"""The level of a run: on which machines the same identity has the same bits, and why."""

import ast
from collections.abc import Mapping

import numpy as np
import torch

from lockstep.config.experiment import Training
from lockstep.ground import environment, home, profiles
from lockstep.program import rows_of
from lockstep.records.receipt import Level, level
from lockstep.run.making import Setup
from lockstep.training import evaluation, selftest
from lockstep.training.loop import apply, follow

_ANSWERS = 8  # examples
# What tells of the process or the machine, by module; with no name, all that a module has.
_SURROUNDINGS = {
    "os": (
        *("environ", "environb", "getenv", "getenvb", "getpid", "getppid", "getpgid", "getuid"),
        *("getgid", "getlogin", "uname", "getcwd", "getcwdb", "cpu_count", "process_cpu_count"),
        *("sched_getaffinity", "getloadavg", "times", "sysconf", "urandom", "getrandom", "stat"),
        *("lstat", "fstat", "listdir", "scandir", "walk"),
    ),
    "time": (
        *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
        *("process_time", "process_time_ns", "thread_time", "thread_time_ns", "localtime"),
        *("gmtime", "ctime", "strftime"),
    ),
    "datetime": ("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
    "sys": ("argv", "executable", "path", "flags", "getrefcount", "getsizeof"),
    "threading": ("get_ident", "get_native_id", "current_thread", "active_count"),
    "multiprocessing": ("cpu_count", "current_process", "parent_process"),
    "uuid": ("uuid1", "uuid4", "getnode"),
    "tempfile": ("mkdtemp", "mkstemp", "mktemp", "gettempdir"),
    **dict.fromkeys(("glob", "platform", "socket", "getpass", "secrets", "psutil", "resource"), ()),
}


def rehearse(setup: Setup) -> None:
    """Train on one shard and answer a few examples, and restore the state before it."""
    before, shards = setup.training.snapshot(), setup.batches.shards
    batch = setup.batches.at(0, shards - 1)
    for move in setup.training.moves:
        outcome = move.gradient.alone().compute(0, rows_of(batch.target), [batch], False)
        apply(setup.training, move, 0.0, outcome.loss)
    if setup.training.after_step:
        setup.training.after_step(0)
    follow(setup.training)
    answer(setup)
    setup.training.restore(before)


def answer(setup: Setup) -> None:
    """Answer a few examples as an evaluation does, which may run operations of its own."""
    rows = setup.blocks("validation", _ANSWERS)
    evaluation.rehearse(setup.model, rows, setup.blocks("validation"), setup.evaluation)


def is_portable(settings: Training) -> bool:
    """Return whether these settings ask for the same bits on any CPU."""
    return (settings.profile, settings.device) == ("portable", "cpu")


def doubts(setup: Setup) -> set[str]:
    """Return why the bits of this process may differ on another CPU: a sentence for each reason."""
    settings = setup.experiment.training
    found = set()
    if is_portable(settings):
        with selftest.Operations() as operations:
            rehearse(setup)
        found |= {f"operation {name}: not verified" for name in operations.unverified()}
        found |= set(selftest.failing())
        found |= {f"{name}: loaded before the profile was set" for name in profiles.early()}
    if (threads := torch.get_num_threads()) > 1:
        found.add(f"threads: the model set {threads}, expected 1")
    setup.workers.meet()  # after a rehearsal, which takes as long as the program's code takes
    if setup.workers.all_gather(np.array([bool(found)], np.float32)).any() and not found:
        found.add("another worker of the run has doubts")
    return found


def surroundings_of(files: Mapping[str, bytes]) -> set[str]:
    """Return a reason for each source file of the project that asks for process or machine."""
    start = home.here().package.replace(".", "/") + "/"
    return {
        f"{name}: reads {what}, which is in no identity"
        for name, content in files.items()
        if name.startswith(start) and name.endswith(".py")
        for what in _surroundings(content)
    }


def _surroundings(content: bytes) -> set[str]:
    """Return the dotted names in a source that are among the surroundings."""
    places = dict[str, str]()  # what a name in this source stands for
    nodes = list(ast.walk(ast.parse(content)))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                places[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                places[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    dotted = {*places.values(), *(_dotted(node, places) for node in nodes)}
    return {name for name in dotted if name and _tells(name)}


def _dotted(node: ast.AST, places: Mapping[str, str]) -> str:
    """Return the dotted name that an expression stands for, or nothing."""
    if isinstance(node, ast.Name):
        return places.get(node.id, "")
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value, places)
        return f"{start}.{node.attr}" if start else ""
    return ""


def _tells(name: str) -> bool:
    module, _, rest = name.partition(".")
    names = _SURROUNDINGS.get(module)
    return names is not None and (bool(rest) if not names else rest in names)


def promise(settings: Training, reasons: set[str]) -> Level:
    """Return the level of a run with these settings and reasons to lower it, for its receipt."""
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    cpu = environment.cpu()["model"]
    return level(settings.profile, settings.device, cpu, gpu, sorted(reasons))
