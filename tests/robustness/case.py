"""One input that a user might have, what must come of it, and how that is measured.

An input has the right result, which its function asserts, or is refused with one line that names what is wrong. It
never ends in another error, nor takes longer than `MOST_SECONDS` or more memory than `MOST_MEGABYTES`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

from im3d_jax.cli.main import main
from im3d_jax.errors import InputError


MOST_SECONDS, MOST_MEGABYTES = 20.0, 1000.0

KINDS = {
    1: "fields that change the meaning",
    2: "captures as people have them",
    3: "conventions of pixels and worlds",
    4: "values at the ends",
    5: "two processes, one folder",
    6: "damaged state",
    7: "files where they are meant to be",
    8: "bombs",
    9: "environment",
    10: "messages",
    11: "training",
}


class Late(BaseException):
    """A case takes too long; nothing but `attempt` catches it."""


class Refused(Exception):
    """A program ended with code 2 and one line; `str` of it is the line."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: Number in `KINDS`.
        name: Unique.
        act: Gets an empty folder, makes the input there, uses it, and asserts the right result.
        refusal: Pattern of the line with which the input is refused; None where it has a right result.
        seconds: That it may take: more where programs are compiled for other shapes than in other cases.
    """

    kind: int
    name: str
    act: Callable[[pathlib.Path], object]
    refusal: str | None = None
    seconds: float = MOST_SECONDS


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: The input.
        problem: What is wrong with the outcome; empty for nothing.
        line: Of a refusal.
        seconds: Wall time.
        megabytes: By which the largest resident size of the process exceeded that before.
    """

    case: Case
    problem: str
    line: str
    seconds: float
    megabytes: float


def attempt(case: Case, folder: pathlib.Path) -> Outcome:
    """Tries a case in an empty folder."""
    line = problem = ""
    before, started = _start_of_peak(), time.monotonic()
    try:
        with _limited(2 * case.seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            case.act(folder)
    except (Refused, InputError) as refusal:
        line = str(refusal)
    except (Exception, KeyboardInterrupt, Late) as error:
        # Readers of `splat`, which knows no `InputError`.
        if (
            type(error) is ValueError
            and "splat" in pathlib.Path(traceback.extract_tb(error.__traceback__)[-1][0]).parts
        ):
            line = str(error)
        else:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    seconds, megabytes = time.monotonic() - started, _peak() - before
    if not problem:
        if "\n" in line:
            problem = "a refusal of several lines"
        elif line and case.refusal is None:
            problem = f"refused: {line}"
        elif case.refusal is not None and not re.search(case.refusal, line):
            problem = f"expected a refusal with {case.refusal!r}, got {line!r}"
        elif seconds > case.seconds:
            problem = f"took {seconds:.1f} s"
        elif megabytes > MOST_MEGABYTES:
            problem = f"took {megabytes:.0f} MB"
    return Outcome(case, problem, line, seconds, megabytes)


def program(run: Callable[[list[str]], int], *arguments: object) -> str:
    """Runs a program of this repository in this process; what it said on stdout and stderr.

    Raises:
        Refused: It ended with code 2 and one line that begins with its name.
        AssertionError: It ended in any other way but code 0.
    """
    out, said = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            code = run([str(argument) for argument in arguments])
        except Exception as error:
            raise AssertionError(f"a traceback: {type(error).__name__}: {error}") from error
    # Users would see them as lines of their own.
    shown = [str(each.message) for each in caught if issubclass(each.category, UserWarning | RuntimeWarning)]
    assert not shown, f"warnings: {shown}"
    text = said.getvalue()
    assert "Traceback" not in text, text
    if code == 2:
        lines = text.splitlines()
        named = [line for line in lines if line.startswith(("im3d: ", "train: "))]
        assert named == lines[-1:], f"expected one line, got {text!r}"
        raise Refused(named[0])
    assert code == 0, f"code {code}: {text}"
    return out.getvalue() + text


def im3d(*arguments: object) -> str:
    """Runs the program `im3d`; see `program`."""
    return program(main, *arguments)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends what takes far longer than it may."""

    def late(number: int, frame: object) -> None:
        raise Late(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _start_of_peak() -> float:
    """Resident size in MB; on Linux the largest one is counted from here."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or _peak()


def _peak() -> float:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
