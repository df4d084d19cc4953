"""Progress on stderr: bars on a terminal, a few plain lines elsewhere (logs, pipes)."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


Report = Callable[[int, int, str], None]  # done, total, note


class ProgressPrinter:
    """Shows the stages of a run, one after the other.

    Args:
        stream: where to write; stderr by default, so that stdout stays free for results.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream

    def line(self, text: str) -> None:
        """Writes one line."""
        print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """Shows one stage while the block runs; yields the function that takes (done, total, note)."""
        started = time.monotonic()
        if self._stream.isatty():
            with self._bar() as bar:
                task = bar.add_task(title, total=None, note="")

                def report(done: int, total: int, note: str = "") -> None:
                    bar.update(task, completed=done, total=total, note=note)

                yield report
        else:
            yield self._plain_report(title)
        self.line(f"{title}: done in {time.monotonic() - started:.1f} s")

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self._stream),
            transient=True,
        )

    def _plain_report(self, title: str) -> Report:
        quarters_shown = 0

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal quarters_shown
            quarters = 4 * done // max(total, 1)
            if quarters_shown < quarters < 4:
                quarters_shown = quarters
                self.line(f"{title}: {done}/{total} {note}".rstrip())

        return report
