"""Errors that a user can mend. Each message is one line: what came, what was expected, the likely fix."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator


# Exit codes of all programs; all but the first are the shell's for SIGINT (Ctrl-C), SIGPIPE and SIGTERM.
WRONG_INPUT, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 130, 141, 143


class InputError(ValueError):
    """A wrong input; `str` of it is one line for the user."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class ImageError(InputError):
    """A picture that cannot be used."""


class CaptureError(InputError):
    """A capture or camera file that cannot be used."""


class WeightsError(InputError):
    """Weights that are missing, damaged, of another shape, or too large for the device."""


class RunFolderError(InputError):
    """A run folder that cannot be written, or holds something else."""


class OutOfMemory(InputError):
    """The device has no memory left for this work."""


@contextlib.contextmanager
def input_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds, whose messages a user understands, into `InputError`s."""
    try:
        yield
    except kinds as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(error)) from error


class Stopped(KeyboardInterrupt):
    """Ctrl-C in work that does not resume where it stopped; `str` of it says what is left."""


def unknown_field(name: str, known: Collection[str]) -> str:
    """What to say of a field that is none: its name, and the one that was meant or all that are known."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"unknown field {name[:40]!r}; {hint}"


def cannot_use(error: OSError) -> str:
    """The line of a program that a file or its output stopped."""
    what = f"use {error.filename}" if error.filename else "write the output"
    return f"cannot {what} ({error.strerror or error}); check its disk and its permissions"
