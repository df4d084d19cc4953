"""Flags that hold paths. Shells leave the `~` of ``--out=~/x`` to the program."""

from __future__ import annotations

import os

from absl import flags

from im3d_jax.errors import InputError


def expand(path: str) -> str:
    """A path whose leading ``~`` or ``~user`` is the home folder.

    Raises:
        InputError: There is no home folder, or the path holds a zero byte, which no system allows.
    """
    if "\0" in path:
        raise InputError(f"the path {path!r} holds a zero byte; give it without")
    if path.split("/", 1)[0] != "~":
        return os.path.expanduser(path)
    expanded = os.path.expanduser(path)
    if expanded == path:
        raise InputError(f"{path}: this process has no home folder; set HOME, or give the whole path")
    return expanded


class _Paths(flags.ArgumentParser):
    """Of one path, or of several that commas separate."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return ",".join(expand(part) for part in argument.split(","))


def define_path(name: str, default: str | None, help: str, flag_values: flags.FlagValues) -> None:
    """Defines a flag of one path, or of several that commas separate."""
    flags.DEFINE(_Paths(), name, default, help, flag_values, flags.ArgumentSerializer())
