"""How programs end: 0, 2 with one line for a wrong input, 130 after Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import flags

from im3d_jax.cli.errors import INTERRUPTED, WRONG_INPUT, InputError


def run_program(name: str, run: Callable[[], object], argv: Sequence[str], stopped: str) -> int:
    """Runs a program and returns its exit code.

    Args:
        name: Begins the line on stderr.
        run: The program; raises `InputError` for a wrong input.
        argv: What absl left over: the program's name alone, or something is wrong.
        stopped: What holds after Ctrl-C, for the user.
    """
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected arguments: {' '.join(argv[1:])}; flags begin with --")
        run()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print(f"{name}: stopped; {stopped}", file=sys.stderr)
        return INTERRUPTED
    return 0


def flags_parser(name: str) -> Callable[[Sequence[str]], list[str]]:
    """For `app.run`: a wrong flag ends with one line and code 2, where absl would end with code 1."""

    def parse_flags(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(list(argv))
        except flags.Error as error:
            print(f"{name}: {' '.join(str(error).split())}; --helpshort lists the flags", file=sys.stderr)
            sys.exit(WRONG_INPUT)

    return parse_flags
