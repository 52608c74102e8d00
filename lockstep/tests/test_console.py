"""The bar's estimate of the time left."""

from lockstep.ground.console import time_left


def test_the_time_left_goes_by_all_steps_of_the_session_not_by_the_last() -> None:
    """A second a step, then a moment in which one step takes a hundred."""
    clock = [float(step) for step in range(1, 1001)] + [1100.0]
    estimates = [time_left(done, 2000 - done, now) for done, now in enumerate(clock, 1)]
    assert estimates[499] == "0:25:00"
    assert (estimates[999], estimates[1000]) == ("0:16:40", "0:18:18")


def test_before_a_step_is_done_no_time_is_guessed_and_none_is_left_at_the_end() -> None:
    assert (time_left(0, 10, 5.0), time_left(10, 0, 5.0)) == ("-:--:--", "0:00:00")
