"""The catalogue of mutants is up to date, and three of them are caught on this machine."""

import ast

import pytest

from lockstep.ground import home
from lockstep.records import source
from lockstep.tests.mutants import HARMLESS, LAWS, MUTANTS, ROOT, Mutant
from lockstep.tests.mutation import main, outcome

THREE = (
    "NumPy's generator is not seeded",
    "shards are summed from left to right",
    "a file is not flushed",
)


@pytest.mark.parametrize("mutant", (*MUTANTS, *HARMLESS), ids=lambda mutant: mutant.name)
def test_each_mutant_is_an_edit_of_the_engine_as_it_is(mutant: Mutant) -> None:
    path = ROOT / "lockstep" / mutant.path
    assert ast.parse(mutant.edited(ROOT)), path
    assert mutant.edited(ROOT) != path.read_text()
    assert mutant.law in LAWS
    for name in mutant.tests:
        assert mutant.slow or not is_slow(name), f"{name} is slow: say so of {mutant.name!r}"


def is_slow(name: str) -> bool:
    """Whether a test, or each of a file's, is marked slow; fails if there is no such test."""
    file, _, test = name.partition("::")
    nodes = ast.parse((home.ENGINE / "tests" / file).read_text()).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    chosen = [one for one in functions if one.name == (test or one.name)]
    assert chosen, f"{name}: no such test"
    marks = [
        ast.unparse(n.value)
        for n in nodes
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"
    ]
    marks += [ast.unparse(mark) for one in chosen if test for mark in one.decorator_list]
    return any("pytest.mark.slow" in mark.partition("parametrize(")[0] for mark in marks)


def test_there_are_forty_and_the_fast_gate_has_most_of_them() -> None:
    names = [mutant.name for mutant in (*MUTANTS, *HARMLESS)]
    assert len(names) == len(set(names))
    assert len(MUTANTS) >= 40
    assert len([mutant for mutant in MUTANTS if not mutant.slow]) >= 36


def test_a_comment_leaves_the_identity_as_it_is_and_a_renamed_local_does_not() -> None:
    same = []
    for mutant in HARMLESS:
        name = f"lockstep/{mutant.path}"
        before, after = (ROOT / name).read_bytes(), mutant.edited(ROOT).encode()
        same.append(source.digests({name: before}) == source.digests({name: after}))
    assert same == [True, False]


def test_a_text_that_is_not_there_is_one_line() -> None:
    gone = Mutant("gone", "training/loop.py", "no such text", "", 1, ())
    with pytest.raises(ValueError, match=r"mutant 'gone': found its text 0 times in lockstep/tr"):
        gone.edited(ROOT)


def test_a_name_that_no_mutant_has_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--only", "no such mutant"]) == 2
    told = "error: --only: no mutant has 'no such mutant' in its name or path\n"
    assert capsys.readouterr().err == told


@pytest.mark.slow
@pytest.mark.parametrize("name", THREE)
def test_a_broken_engine_is_caught(name: str) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    assert outcome(mutant).result == "caught"


@pytest.mark.slow
def test_a_harmless_edit_is_not_caught() -> None:
    assert [outcome(mutant).result for mutant in HARMLESS] == ["survived", "survived"]
