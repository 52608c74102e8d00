"""What shards, profiles and workers cost and bring."""

from functools import partial
from itertools import count
from pathlib import Path

from lockstep.benchmarks.cases import STEPS, WARM, Case, train
from lockstep.benchmarks.measure import Process, Table, child, folder, in_turn, middle, ratio

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr=localhost")
NETWORKS = ("cnn", "mlp", "transformer")


def shards(rounds: int) -> Table:
    """One process: 8 shards beside 1, and profile portable beside native, for three networks."""
    rows, measured = [], {}
    numbers = count()

    def rate(runs: Path, network: str, profile: str, number: int) -> float:
        settings = f"training.profile={profile}", f"training.shards={number}"
        steps, warm = STEPS.get(network, 230), WARM.get(network, 30)
        return train(steps, network, *settings, runs=runs / str(next(numbers))).rate(warm)

    for network in NETWORKS:
        with folder() as runs:
            cases: dict[str, Case] = {
                f"{profile} {number}": partial(rate, runs, network, profile, number)
                for profile in ("native", "portable")
                for number in (1, 8)
            }
            found = measured[network] = in_turn(cases, rounds)
        for first, second, title in (
            ("native 1", "native 8", "8 shards beside 1, native"),
            ("portable 1", "portable 8", "8 shards beside 1, portable"),
            ("native 1", "portable 1", "portable beside native, 1 shard"),
            ("native 8", "portable 8", "portable beside native, 8 shards"),
        ):
            row = [network, title, f"{middle(found[second])[0]:,.0f}"]
            rows.append([*row, f"{ratio(found, first, second):.2f}"])
    head = ["network", "", "samples/s", "times the step time"]
    return Table("shards", head, rows, measured)


def workers(rounds: int) -> Table:
    """Two workers on two cores beside one, and beside plain DDP of the bare loop."""
    steps, warm = STEPS["cnn"], WARM["cnn"]
    numbers = count()

    def lockstep(runs: Path, workers: int, profile: str) -> float:
        place = runs / str(next(numbers))
        setting = f"training.profile={profile}"
        if workers == 1:
            return train(steps, "cnn", setting, runs=place).rate(warm)
        words = [str(steps), "train", "cnn", setting, "--runs", str(place)]
        return torchrun("lockstep.benchmarks.probe", *words).rate(warm)

    def ddp(processes: int) -> float:
        words = ("bare", "cnn", str(steps))
        if processes == 1:
            return child("-m", "lockstep.benchmarks.loops", *words).rate(warm)
        return torchrun("lockstep.benchmarks.loops", *words).rate(warm)

    with folder() as runs:
        cases: dict[str, Case] = {
            "Lockstep, portable, 1 worker": partial(lockstep, runs, 1, "portable"),
            "Lockstep, portable, 2 workers": partial(lockstep, runs, 2, "portable"),
            "Lockstep, native, 1 worker": partial(lockstep, runs, 1, "native"),
            "Lockstep, native, 2 workers": partial(lockstep, runs, 2, "native"),
            "bare loop": partial(ddp, 1),
            "bare loop under DDP, 2 processes": partial(ddp, 2),
        }
        found = in_turn(cases, rounds)
    one = {"2 workers": "1 worker", "under DDP, 2 processes": ""}
    rows = []
    for name, rates in found.items():
        base = next((name.replace(a, b).strip(" ,") for a, b in one.items() if a in name), name)
        against = ratio(found, name, "bare loop under DDP, 2 processes")
        row = [name, f"{middle(rates)[0]:,.0f}", f"{ratio(found, name, base):.2f}"]
        rows.append([*row, f"{against:.2f}"])
    head = ["CNN, batch 128, 8 shards", "samples/s", "of the same alone", "of DDP"]
    return Table("workers", head, rows, found)


def torchrun(module: str, *words: str) -> Process:
    """A module in two processes on this machine; what the first of them printed."""
    return child(*TORCHRUN, "--nproc-per-node=2", "--module", module, *words)
