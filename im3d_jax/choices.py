"""What users choose by name or number; without JAX, so that wrong choices are told before it is imported."""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal

from im3d_jax.errors import InputError


Quality = Literal["draft", "standard", "best"]
"""What each stands for is in one table of each model."""
Direction = Literal["auto", "ccw", "cw"]
"""How views turn, seen from above; ``auto`` finds it."""
Start = Literal["auto", "hull", "ball"]
"""Where a fit to drawn views starts; ``auto`` leaves it to the model."""
FEWEST_GAUSSIANS, MOST_GAUSSIANS = 100, 10_000_000
"""Of a fitted capture."""
LARGEST_WHOLE = 2**31 - 1
"""Of a number of steps, pictures, threads and the like: int32 holds it."""


def is_whole(number: Any) -> bool:
    """Whether a value is a whole number, of Python or numpy; truth values are none."""
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)


def check_whole(
    name: str, number: Any, least: int, most: int = LARGEST_WHOLE, *, error: type[InputError] = InputError
) -> int:
    """A whole number within its limits, as an int of Python.

    Args:
        name: For the message.
        number: What came.
        least, most: The limits, both included.
        error: What is raised.

    Raises:
        InputError: Or `error`: not a whole number, or outside of the limits.
    """
    if is_whole(number) and least <= number <= most:
        return int(number)
    raise error(f"{name}={_shown(number)}: expected a whole number from {least} to {most}")


def _shown(number: Any) -> str:
    try:
        return str(number)[:40]
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def check_least(name: str, number: float, least: float) -> None:
    """Refuses a number below a limit, NaN, and whole numbers above `LARGEST_WHOLE`.

    Raises:
        InputError: It is one.
    """
    if is_whole(number) and number > LARGEST_WHOLE:
        raise InputError(f"{name}={_shown(number)}: expected at most {LARGEST_WHOLE}")
    if not number >= least:
        raise InputError(f"{name}={number}: expected {f'at least {least}' if least else '0 or more'}")


def check_above_zero(name: str, number: float, what: str = "number") -> None:
    """Refuses a number that is not above 0 or not finite; `what` it is goes into the message.

    Raises:
        InputError: It is one.
    """
    if not 0.0 < number < math.inf:
        raise InputError(f"{name}={number}: expected a {what} above 0")


def check_share(name: str, number: float) -> None:
    """Refuses a number outside of [0, 1].

    Raises:
        InputError: It is one.
    """
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{name}={number}: expected a share, 0 to 1")
