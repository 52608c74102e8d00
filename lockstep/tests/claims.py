"""What Lockstep claims, and the tests that hold it: the table that ``invoke prove`` prints.

A whole run of the suite ends with the same table. ``--full`` tries harder, ``--write-claims`` puts
the table into docs/claims.md, with the machine and the date.
"""

import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lockstep.ground import environment

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"


@dataclass(frozen=True)
class Claim:
    """A sentence, how it is tried, and the tests that try it: files, or tests in them.

    ``brought`` says what of it is tried with models and code that are not ours. ``result`` takes
    the place of "held" and "FAILED": a text with {passed} and {all}.
    """

    text: str
    how: str
    tests: tuple[str, ...]
    brought: str = "nothing"
    result: str = ""


_BROUGHT = "test_brought.py::test_a_brought_model_"

CLAIMS = (
    Claim(
        "The same identity has the same bits",
        "in another process, another folder, another clone",
        (
            "test_experiment.py::test_the_same_identity_has_the_same_bits_in_another_process",
            "test_experiment.py::test_what_decides_no_bit_is_not_in_the_identity",
            "run/test_identity.py::test_an_edit_that_can_change_bits_changes_the_identity",
            "run/test_identity.py::test_an_edit_that_can_change_no_bit_changes_no_identity",
            f"{_BROUGHT}has_the_same_bits_in_another_clone_after_kills_with_other_workers",
        ),
        "an LSTM with relative imports, shared code and data files beside it: edits of each; the "
        "models of tests/brought.py in two clones",
    ),
    Claim(
        "What would break a law is refused by name",
        "before the first step, or at the end of the epoch in which it happens",
        (
            "run/test_rehearsal.py",
            "run/test_laws.py::test_what_one_shard_leaves_for_the_next_is_refused",
            f"{_BROUGHT}that_breaks_a_law_is_refused_in_one_line",
        ),
        "counters, replaced tensors, chance of one's own, losses that are no mean, files and "
        "modules from elsewhere; frozen parts, tied weights and constants of any kind train",
    ),
    Claim(
        "Kill it anywhere, and the same command ends with the same bits",
        "SIGKILL at random instants of whole trainings; SIGTERM, SIGINT, suspended, clock set back",
        (
            "faults/test_kills.py",
            "run/test_laws.py::test_state_of_every_kind_comes_back_after_a_stop",
            "run/test_rehearsal.py::test_chance_from_any_default_generator_is_the_same_after_a_stop",
            "run/test_identity.py::"
            "test_a_stopped_run_resumes_after_harmless_edits_and_train_names_what_parts_another",
        ),
        "stopped and resumed: batch norm, averaged weights, Nesterov, clipping; augmentation by "
        "NumPy, Python and torch; an LSTM, with harmless edits in between",
    ),
    Claim(
        "No file bears its name before it is complete; no damage gives a wrong result",
        "EIO, ENOSPC, EROFS, SIGKILL at each system call of a save; full and read-only disks; a "
        "flipped byte in each file",
        ("faults/test_calls.py", "faults/test_disks.py", "faults/test_bytes.py"),
    ),
    Claim(
        "Workers don't show",
        "1, 2, 4 and 8 of them, changed in mid-run; one killed; one of two hosts cut off (network "
        "namespaces)",
        (
            "faults/test_workers.py",
            "run/test_laws.py::test_workers_do_not_show_in_the_bits_of_a_brought_model",
            "run/test_laws.py::test_a_worker_that_was_set_up_otherwise_is_refused",
        ),
        "1, 2 and 4 with batch norm, dropout and augmentation by NumPy; preprocessing that differs "
        "between workers is refused",
    ),
    Claim(
        "One lock, the same bits: host, image, dev container",
        "trained in each, packages compared name by name; begun on the host, ended in the image",
        ("containers/test_parity.py", "containers/test_images.py"),
    ),
    Claim(
        "Neither user nor surroundings show",
        "threads, loaders, affinity, OMP, MKL and oneDNN variables, locale, time zone, path, user, "
        "umask, hash seed",
        ("test_matrix.py",),
    ),
    Claim(
        "Any x86-64 CPU with AVX2 (profile portable)",
        "trained under qemu-user as Haswell, Skylake and EPYC, also in turns; golden digests",
        (
            "test_any_cpu.py",
            "training/test_selftest.py",
            f"{_BROUGHT}has_the_same_bits_on_other_cpus",
            f"{_BROUGHT}that_may_differ_on_other_cpus_says_so",
        ),
        "the models of tests/brought.py as Haswell or EPYC (some of them, all by --full); an LSTM, "
        "whose kernels are not portable, says so",
    ),
    Claim(
        "Each epoch sees each sample once, and the order needs no list",
        "10^12 samples; 1,024 simulated workers; after kills",
        (
            "data/test_order.py",
            "data/test_batches.py",
            "faults/test_kills.py::test_each_epoch_saw_each_sample_once_also_after_a_kill",
        ),
    ),
    Claim(
        "A run's folder is enough to make it again",
        "from a dirty tree, another commit, another place; an altered file is named",
        (
            "records/test_reproduce.py",
            "run/test_identity.py::test_a_run_keeps_what_its_reproduction_needs",
        ),
        "an LSTM whose shared code was deleted since",
    ),
    Claim(
        "Two runs are compared to the first step that differs, and why",
        "each column, each edge of an epoch, a changed sample, 10^6 steps",
        ("records/test_compare.py",),
    ),
    Claim(
        "A study has the same trials, however many work on it and however often it is killed",
        "1 and 2 processes, SIGKILL and SIGTERM, a torn journal, two machines on one PostgreSQL",
        ("tuning/test_study.py",),
    ),
    Claim(
        "The view in MLflow has each thing once, and training never waits for it",
        "server on PostgreSQL and S3 killed in mid-training, syncs killed and at once; no server",
        ("test_tracking.py",),
    ),
    Claim(
        "An answer has the same bytes whatever else is asked, and those of training",
        "alone, in blocks, under load; golden answers of each run; in a fresh process",
        (
            "answers/test_golden.py",
            "serving/test_load.py",
            "run/test_rehearsal.py::test_tied_weights_train_to_a_receipt_and_answer",
        ),
        "tied weights; a model whose rows know of each other is refused",
    ),
    Claim(
        "The same run is the same bundle, and a changed byte in it is refused by name",
        "other process, time zone, locale; each file altered, missing, added; other keys",
        (
            "bundles/test_archive.py",
            "bundles/test_opening.py",
            "publishing/test_bundle.py",
            "publishing/test_teams.py::"
            "test_a_bundle_answers_by_the_code_of_the_team_that_trained_it",
        ),
        "a bundle of another team, with code of its own",
    ),
    Claim(
        "SageMaker trains to the same bits and answers with them",
        "its SDK's local mode on a Docker engine, one host and two; an interruption",
        ("containers/test_sagemaker.py", "sagemaker/test_container.py"),
    ),
    Claim(
        "Nothing that is loaded can run code",
        "no torch.load, pickle, eval or unsafe YAML in any file of the package",
        ("test_architecture.py::test_nothing_that_is_loaded_can_run_code",),
    ),
    Claim(
        "These tests can fail",
        "an edit of one line breaks a copy of the engine: NumPy's generator is not seeded, shards "
        "are summed from left to right, a file is not flushed; `invoke test --mutants` has all",
        ("test_mutants.py::test_a_broken_engine_is_caught",),
        result="{passed} of {all} broken engines were caught",
    ),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``invoke prove``."""
    parser.addoption("--full", action="store_true", help="kill 500 times instead of 20")
    parser.addoption(
        "--write-claims", action="store_true", help="write the table to docs/claims.md"
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the claims whose tests have run."""
    rows = [row for claim in CLAIMS if (row := tried(claim, terminalreporter.stats))]
    if not rows or config.getoption("collectonly"):
        return
    lines = [
        "| claim | tried | with brought models | times | result |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    terminalreporter.section("claims")
    terminalreporter.write_line("\n".join(lines))
    if config.getoption("write_claims"):
        write(lines, "invoke prove --full" if config.getoption("full") else "invoke prove")


def tried(
    claim: Claim, stats: dict[str, list[pytest.TestReport]]
) -> tuple[str, str, str, str, str] | None:
    """A claim's row: text, how, what with brought models, how often, result; None if not tried."""

    def of_claim(outcome: str) -> list[pytest.TestReport]:
        reports = [item for item in stats.get(outcome, []) if hasattr(item, "user_properties")]
        names = [f"lockstep/tests/{test}" for test in claim.tests]
        return [
            report
            for report in reports
            if any(re.match(f"{re.escape(name)}($|::|\\[)", report.nodeid) for name in names)
        ]

    passed = [report for report in of_claim("passed") if report.when == "call"]
    failed, skipped = of_claim("failed") + of_claim("error"), of_claim("skipped")
    if not passed and not failed and not skipped:
        return None
    times = sum(int(str(dict(report.user_properties).get("times", 1))) for report in passed)
    result = f"{len(failed)} FAILED" if failed else "held" if passed else "not tried here"
    if claim.result and (passed or failed):
        result = claim.result.format(passed=len(passed), all=len(passed) + len(failed))
    if skipped and passed:
        result += f", {len(skipped)} not tried here"
    return claim.text, claim.how, claim.brought, f"{times:,}", result


def write(lines: list[str], command: str) -> None:
    """Put the table between its marks in docs/claims.md."""
    when, cpu = datetime.now(UTC).strftime("%Y-%m-%d"), environment.cpu()["model"]
    said = f"`{command}`, {when}, {platform.system()} on {cpu}."
    table = "\n".join([*lines, "", said])
    text = PAGE.read_text()
    marked = re.compile(r"(<!-- claims -->\n).*?(<!-- end of claims -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text))
