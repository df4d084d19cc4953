"""Types for annotations.

Shapes in annotations, such as `Float[Array, "*batch height width 4"]`, are read by people and checked by the tests,
which import packages through jaxtyping's hook; nothing is checked otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never, Union

import jax
import numpy as np
from jaxtyping import Num


AnyArray = Union[jax.Array, np.ndarray]  # noqa: UP007 (jaxtyping takes it apart)
"""What functions take that work with numpy arrays as they do with JAX's."""
Scalar = Union[float, int, np.number, Num[AnyArray, ""]]  # noqa: UP007
"""A number, or an array without axes, which may be traced."""
Times = Union[float, int, np.number, Num[AnyArray, "*times"]]  # noqa: UP007
"""A number, or an array of any shape; results of the same call have its shape ``*times``."""


if TYPE_CHECKING:
    Device = Any
    LeafArray = jax.Array
    Placeholder = Never
else:
    Device = jax.Device
    # Leaves of a pytree may be numpy arrays, as `jax.device_get` makes them.
    LeafArray = jax.Array | np.ndarray

    class _NoArray(type):
        def __instancecheck__(cls, value: object) -> bool:
            return not isinstance(value, jax.Array | np.ndarray)

    class Placeholder(metaclass=_NoArray):
        """Whatever is no array: transformations rebuild pytrees with None, shapes or `object()` instead of leaves."""
