"""Every claim has its tests, and docs/claims.md shows the claims as last tried."""

import re
import subprocess
import sys

import pytest

from lockstep.tests.claims import CLAIMS, PAGE, Claim
from lockstep.tests.conftest import ENGINE, ROOT
from lockstep.tests.test_architecture import FILES


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_the_tests_that_a_claim_names_are_there(claim: Claim) -> None:
    for name in claim.tests:
        path, _, test = name.partition("::")
        text = (ENGINE / "tests" / path).read_text()
        assert re.search(rf"^def {test or 'test_'}", text, re.MULTILINE)


def test_the_page_shows_each_claim_as_held() -> None:
    table = PAGE.read_text().partition("<!-- claims -->")[2].partition("<!-- end of claims")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [claim.text for claim in CLAIMS]
    expected = [(claim.brought, claim.result.format(passed=3, all=3) or "held") for claim in CLAIMS]
    assert [(row[2], row[4]) for row in rows[1:]] == expected


@pytest.mark.slow
def test_a_run_of_the_suite_ends_with_the_claims_that_it_tried() -> None:
    one = "lockstep/tests/test_architecture.py::test_nothing_that_is_loaded_can_run_code"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", one],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| Nothing"))
    assert row.endswith(f"| {len(FILES):,} | held |")
