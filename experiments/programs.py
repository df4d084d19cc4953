"""How the programs of this package start and end, with the exit codes of `im3d`; see `im3d_jax.errors`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from im3d_jax.errors import INTERRUPTED, PIPE_CLOSED, WRONG_INPUT, InputError, cannot_use


@dataclasses.dataclass(frozen=True)
class Program:
    """An absl program.

    Attributes:
        name: Of the module after ``experiments.``; begins every line on stderr.
        define_flags: Defines the flags in a `FlagValues`.
        run: Does the work; raises `InputError` for a wrong input.
        stopped: What Ctrl-C leaves, for the user.
    """

    name: str
    define_flags: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], object]
    stopped: str

    def start(self) -> None:
        """Runs with absl's global flags, and ends the process."""
        self.define_flags(flags.FLAGS)
        app.run(lambda argv: self._finish(flags.FLAGS, argv[1:]), flags_parser=self._parse_or_exit)

    def __call__(self, arguments: Sequence[str]) -> int:
        """Runs with flags of its own.

        Args:
            arguments: The command line without the program's name.

        Returns:
            The exit code.
        """
        values = flags.FlagValues()
        self.define_flags(values)
        try:
            rest = values([self.name, *arguments])[1:]
        except flags.Error as error:
            return self._refuse_flag(error)
        return self._finish(values, rest)

    def _finish(self, values: flags.FlagValues, rest: Sequence[str]) -> int:
        try:
            if rest:
                raise InputError(f"unexpected arguments: {' '.join(rest)}; flags begin with --")
            self.run(values)
        except InputError as error:
            return self._end(str(error), WRONG_INPUT)
        except BrokenPipeError:
            return PIPE_CLOSED
        except OSError as error:
            return self._end(cannot_use(error), WRONG_INPUT)
        except KeyboardInterrupt:
            return self._end(f"stopped; {self.stopped}", INTERRUPTED)
        return 0

    def _parse_or_exit(self, argv: Sequence[str]) -> list[str]:
        """absl itself would end with code 1 and print all flags."""
        try:
            return flags.FLAGS(list(argv))
        except flags.Error as error:
            sys.exit(self._refuse_flag(error))

    def _refuse_flag(self, error: flags.Error) -> int:
        return self._end(f"{' '.join(str(error).split())}; --helpshort lists the flags", WRONG_INPUT)

    def _end(self, line: str, code: int) -> int:
        print(f"{self.name}: {line}", file=sys.stderr)
        return code


def command_line(name: str) -> str:
    """The command that runs this process, for records.

    Args:
        name: See `Program`.
    """
    return shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:]])
