"""Progress: a few lines in logs, bars on terminals, events for callers."""

import io
import time

import pytest

from im3d_jax.progress import Event, ProgressCalls, ProgressPrinter, seconds_left


def test_plain_progress_is_a_few_lines():
    stream = io.StringIO()
    with ProgressPrinter(stream).stage("fit") as report:
        for step in range(1000):
            report(step + 1, 1000, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert (
        len(lines) == 4
        and lines[0] == "fit: 250/1000, about 0 s left, loss 249"
        and lines[-1].startswith("fit: done in")
    )


def test_terminal_progress_draws_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with ProgressPrinter(stream).stage("fit") as report:
        report(5, 10, "half")
    assert "fit: done in" in stream.getvalue()


def test_events_are_lines_with_an_estimate():
    events = []
    calls = ProgressCalls(events.append)
    with calls.stage("fit") as report:
        for step in (0, 5, 10):
            report(step, 10, "loss 3")
    calls.line("a remark")
    assert [(event.stage, event.done, event.total, event.finished) for event in events] == [
        ("fit", 0, 10, False), ("fit", 5, 10, False), ("fit", 10, 10, False), ("fit", 0, 0, True), ("", 0, 0, False),
    ]  # fmt: skip
    assert [event.seconds_left is not None for event in events] == [False, True, False, False, False]
    lines = [str(event) for event in events]
    assert lines[0] == "fit: 0/10, loss 3" and lines[1] == "fit: 5/10, about 0 s left, loss 3"
    assert lines[3].startswith("fit: done in 0.") and lines[4] == "a remark"
    assert not any("\n" in line for line in lines)


def test_an_estimate_follows_the_steps_done():
    assert str(Event("views", 2, 10, seconds_left=83.4)) == "views: 2/10, about 83 s left"
    assert str(Event("views", 2, 10, "refine", 400.0)) == "views: 2/10, about 7 min left, refine"
    assert seconds_left(time.monotonic() - 4.0, 2, 10) == pytest.approx(16.0, abs=1.0)
    assert seconds_left(0.0, 0, 10) is None and seconds_left(0.0, 10, 10) is None


def test_nobody_need_listen():
    calls = ProgressCalls(None)
    with calls.stage("fit") as report:
        report(1, 2, "")
    calls.line("x")


def test_errors_pass_through():
    for progress in (ProgressCalls(None), ProgressPrinter(io.StringIO())):
        with pytest.raises(KeyError), progress.stage("fit"):
            raise KeyError("x")
