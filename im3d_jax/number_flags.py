"""Flags of numbers that JAX and C can hold: absl lets NaN through every bound, and whole numbers of any length."""

from __future__ import annotations

import math

from absl import flags

from im3d_jax.choices import LARGEST_WHOLE


# The flags are those of the module that calls these functions: its --help lists them.
flags.disclaim_key_flags()


class _Floats(flags.FloatParser):
    def is_outside_bounds(self, val: float) -> bool:
        return math.isnan(val) or super().is_outside_bounds(val)


def define_float(
    name: str,
    default: float | None,
    help: str,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    *,
    flag_values: flags.FlagValues,
) -> None:
    """Defines a flag of a number; NaN is refused, and infinities where a bound excludes them."""
    flags.DEFINE(
        _Floats(lower_bound, upper_bound), name, default, help, flag_values, flags.ArgumentSerializer()
    )  # fmt: skip


def define_integer(
    name: str,
    default: int | None,
    help: str,
    lower_bound: int = -LARGEST_WHOLE,
    upper_bound: int = LARGEST_WHOLE,
    *,
    flag_values: flags.FlagValues,
) -> None:
    """Defines a flag of a whole number, by default one that int32 holds."""
    flags.DEFINE_integer(name, default, help, lower_bound, upper_bound, flag_values=flag_values)
