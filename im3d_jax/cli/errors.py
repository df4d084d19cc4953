"""How a wrong input ends: exit code 2 and one line that says what came, what was expected, how to mend it."""

import contextlib
from collections.abc import Iterator


WRONG_INPUT, INTERRUPTED = 2, 130  # exit codes; the second is the shell's for Ctrl-C


class UserError(Exception):
    """Something that the user can mend; `str` of it is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class Stopped(KeyboardInterrupt):
    """Ctrl-C in a command that does not go on where it stopped; `str` of it says what is left."""


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds, whose messages are written for users, into a `UserError`."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error
