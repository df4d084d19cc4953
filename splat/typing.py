"""Array types for annotations.

Shapes in annotations, such as `Float[Array, "*scenes N 3"]`, are read by people and checked by the tests, which import
the package through jaxtyping's hook; nothing is checked otherwise. N counts gaussians, V views, H and W pixels, K
coefficients of spherical harmonics, C channels.
"""

from typing import TYPE_CHECKING, Never

import jax
import numpy as np
from jaxtyping import Num


# What functions accept that turn numpy arrays into JAX arrays themselves.
AnyArray = jax.Array | np.ndarray
Scalar = float | int | np.number | Num[AnyArray, ""]


if TYPE_CHECKING:
    LeafArray = jax.Array
    Placeholder = Never
else:
    # Leaves of a pytree may be numpy arrays, which the functions of this package take as they are.
    LeafArray = jax.Array | np.ndarray

    class _NoArray(type):
        def __instancecheck__(cls, value) -> bool:
            return not isinstance(value, LeafArray) or value.dtype == jax.dtypes.float0

    class Placeholder(metaclass=_NoArray):
        """Any object but an array: transformations rebuild pytrees with None, `object()`, specs or zero tangents."""
