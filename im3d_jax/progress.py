"""Progress of work that takes longer than a few seconds: on stderr, or as events to a function of the caller."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


Report = Callable[[int, int, str], Any]
"""report(steps done, all steps, a note)."""


class Progress(Protocol):
    """Who is told how work goes on."""

    def line(self, text: str) -> None:
        """Takes one line for the user."""
        ...

    def stage(self, title: str) -> contextlib.AbstractContextManager[Report]:
        """Surrounds one stage; the value is the stage's `Report`."""
        ...


@dataclasses.dataclass(frozen=True)
class Event:
    """What a caller's function is told; `str` of it is a line.

    Attributes:
        stage: Title of the stage, empty for a remark.
        done: Steps done.
        total: All steps; 0 while they are not known.
        note: A remark, or figures of the last step.
        seconds_left: Estimated from the steps done; None while there is no estimate.
        finished: Whether the stage has ended.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    seconds_left: float | None = None
    finished: bool = False

    def __str__(self) -> str:
        if not self.stage:
            return self.note
        if self.finished:
            return f"{self.stage}: done {self.note}".rstrip()
        parts = [f"{self.stage}: {self.done}/{self.total}"]
        if self.seconds_left is not None:
            minutes = self.seconds_left / 60.0
            parts.append(f"about {minutes:.0f} min left" if minutes >= 2.0 else f"about {self.seconds_left:.0f} s left")
        return ", ".join([*parts, self.note] if self.note else parts)


class ProgressCalls:
    """Gives every event to a function, `print` for instance.

    Args:
        call: Takes an `Event`; None drops them.
    """

    def __init__(self, call: Callable[[Event], Any] | None):
        self._call = call or (lambda event: None)

    def line(self, text: str) -> None:
        """See `Progress`."""
        self._call(Event(note=text))

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """See `Progress`."""
        started = time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            self._call(Event(title, done, total, note, seconds_left(started, done, total)))

        yield report
        self._call(Event(title, note=f"in {time.monotonic() - started:.1f} s", finished=True))


class ProgressPrinter:
    """Shows stages one after the other: bars on a terminal, a few plain lines elsewhere (logs, pipes).

    Args:
        stream: Where to write; stderr by default, so that stdout stays free for results.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream

    def line(self, text: str) -> None:
        """Writes one line."""
        print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """Shows one stage while the block runs."""
        started = time.monotonic()
        if self._stream.isatty():
            with self._bars() as bars:
                task = bars.add_task(title, total=None, note="")

                def report(done: int, total: int, note: str = "") -> None:
                    bars.update(task, completed=done, total=total, note=note)

                yield report
        else:
            yield self._plain_report(title, started)
        self.line(f"{title}: done in {time.monotonic() - started:.1f} s")

    def _bars(self) -> Bars:
        return Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self._stream),
            transient=True,
        )

    def _plain_report(self, title: str, started: float) -> Report:
        quarters_shown = 0

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal quarters_shown
            quarters = 4 * done // max(total, 1)
            if quarters_shown < quarters < 4:
                quarters_shown = quarters
                self.line(str(Event(title, done, total, note, seconds_left(started, done, total))))

        return report


def seconds_left(started: float, done: int, total: int) -> float | None:
    """Estimated seconds of the steps that are left, from `time.monotonic()` at the start; None before the first."""
    return (time.monotonic() - started) * (total - done) / done if 0 < done < total else None
