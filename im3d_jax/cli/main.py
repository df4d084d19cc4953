"""Chooses the command, reads its flags, and turns errors into exit codes.

absl knows one global set of flags; here every command has a set of its own, so that a flag of another command
is unknown.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from absl import flags

from im3d_jax.errors import INTERRUPTED, WRONG_INPUT, InputError, Stopped
from im3d_jax.version import __version__


COMMANDS = {
    "generate": "a prompt and/or a picture to a 3D asset",
    "views": "the first half alone: 16 turntable views",
    "batch": "views or assets of every line of a file of prompts",
    "reconstruct": "the second half alone: a run folder or a capture to a 3D asset",
    "render-dataset": "a folder of meshes to turntables for training",
    "convert": "weights of SVD, SV3D and Stable Diffusion from one layout to another",
    "doctor": "devices, memory, versions, weights; --vocabulary lists the words that a model knows",
}


def console() -> None:
    """Entry point of the console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command.

    Args:
        arguments: command line without the program's name.

    Returns:
        Exit code: 0, 2 for a wrong input (one line on stderr), 130 after Ctrl-C.
    """
    try:
        return _dispatch(list(arguments))
    except InputError as error:
        print(f"im3d: {error}", file=sys.stderr)
        return WRONG_INPUT
    except Stopped as error:
        print(f"im3d: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("im3d: stopped; finished work is kept, rerun the same command to resume", file=sys.stderr)
        return INTERRUPTED


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
