"""Chooses the command, reads its flags, and turns errors into exit codes.

absl knows one global set of flags; here every command has a set of its own, so that a flag of another command
is unknown.
"""

import contextlib
import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import flags

from im3d_jax.errors import INTERRUPTED, PIPE_CLOSED, TERMINATED, WRONG_INPUT, InputError, Stopped, cannot_use
from im3d_jax.version import __version__


COMMANDS = {
    "generate": "a prompt and/or a picture to a 3D asset",
    "views": "the first half alone: 16 turntable views",
    "batch": "views or assets of every line of a file of prompts",
    "reconstruct": "the second half alone: a run folder or a capture to a 3D asset",
    "view": "a page (HTML) of a run or of a file of gaussians",
    "export": "a run or a file of gaussians to another format",
    "render-dataset": "a folder of meshes to turntables for training",
    "convert": "weights of SVD, SV3D and Stable Diffusion from one layout to another",
    "doctor": "devices, memory, versions, weights; --vocabulary lists the words that a model knows",
}


def console() -> None:
    """Entry point of the console script."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # locales that lack a character, such as ASCII
    code = main(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Python would flush again at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _open_streams() -> None:
    """Opens the standard streams that were closed: a file of a run must not get their numbers, and lines for users."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def main(arguments: Sequence[str]) -> int:
    """Runs one command.

    Args:
        arguments: command line without the program's name.

    Returns:
        Exit code: 0; 2 for a wrong input, or output that cannot be written (one line on stderr); 130 after Ctrl-C, 143
        after SIGTERM; 141 where nobody reads the output any more.
    """
    with _sigterm() as came:
        try:
            code = _dispatch(list(arguments))
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except InputError as error:
            gone = "" if _has_working_folder() else "; the working folder was removed: change into another one"
            return _end(f"{error}{gone}", WRONG_INPUT)
        except Stopped as error:
            return _end(str(error), TERMINATED if came() else INTERRUPTED)
        except KeyboardInterrupt:
            how, code = ("stopped by SIGTERM", TERMINATED) if came() else ("stopped", INTERRUPTED)
            return _end(f"{how}; finished work is kept, rerun the same command to resume", code)
        except BrokenPipeError:
            return PIPE_CLOSED
        except OSError as error:
            if not _has_working_folder():
                return _end("the working folder was removed; change into another one", WRONG_INPUT)
            return _end(cannot_use(error), WRONG_INPUT)


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _end(line: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"im3d: {line}", file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Lets the first SIGTERM stop work as Ctrl-C does; the value tells whether one came."""
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        if not came:  # a second one must not interrupt what keeps the work
            came = True
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread
        yield lambda: False
        return
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("help", "--help", "-h", "-help", "--helpfull"):
        if len(arguments) > 1 and arguments[1] in COMMANDS:
            print(_command_help(arguments[1]))
        else:
            print(_program_help())
        return 0
    if arguments[0] in ("version", "--version"):
        print(__version__)
        return 0
    name, *rest = arguments
    if name in ("viewer", "show", "open"):
        raise InputError(
            f"unknown command {name!r}; open a run's viewer.html in a browser, or make a page of any file of gaussians "
            "with im3d view --page FILE (`im3d views` draws views of a prompt)"
        )
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise InputError(f"unknown command {name!r}; {hint}")
    if any(argument in ("--help", "-h", "-help", "--helpfull", "--helpshort") for argument in rest):
        print(_command_help(name))
        return 0
    values, command = _flags_of(name)
    try:
        left_over = values([f"im3d {name}", *rest])[1:]
    except flags.Error as error:
        raise InputError(f"{error}; see im3d {name} --help") from None
    except OSError as error:  # of --flagfile
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    if left_over and hasattr(command, "take"):
        left_over = command.take(values, left_over)
    if left_over:
        raise InputError(f"unexpected argument {left_over[0]!r}; write flags as --name=value")
    command.run(values)
    return 0


def _flags_of(name: str):
    """The command's module and a fresh set with its flags, not yet parsed."""
    command = importlib.import_module(f"im3d_jax.cli.{name.replace('-', '_')}")
    values = flags.FlagValues()
    command.register(values)
    return values, command


def _program_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  im3d {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    first, last = "im3d makes 3D assets from text and pictures.", "im3d COMMAND --help lists the flags."
    return "\n".join([first, "", *lines, "", last])


def _command_help(name: str) -> str:
    values, command = _flags_of(name)
    lines = []
    for flag_name in values:
        flag = values[flag_name]
        default = "" if flag.default is None else f" (default {flag.default})"
        lines.append(f"  --{flag_name}: {flag.help}{default}")
    return "\n".join([f"im3d {name}: {COMMANDS[name]}", "", (command.__doc__ or "").strip(), "", *lines])
