"""The arrays that a rendering starts from, and the check of their shapes before anything is traced."""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Bool, Float, Num

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.typing import AnyArray, Placeholder, Scalar


DISTORTIONS = {"pinhole": (4, 5, 8), "fisheye": (4,), "orthographic": ()}


class Inputs(flax.struct.PyTreeNode):
    """The arguments of `splat.render` that hold arrays, as it documents them.

    Attributes:
        gaussians: N gaussians.
        cameras: V cameras.
        background: A scalar, [3], [..., V, 3] or [..., V, H, W, 3].
        active: [..., N] bool, or None.
        mean2d_offset: [..., V, N, 2] or None.
        absolute_offset: [..., V, N, 2] or None.
        features: [..., N, C] or [..., V, N, C], or None.
    """

    gaussians: Gaussians | Placeholder
    cameras: Cameras | Placeholder
    background: Scalar | Num[AnyArray, "*background 3"] | Placeholder = 0.0
    active: Bool[AnyArray, "*scenes N"] | Placeholder | None = None
    mean2d_offset: Float[AnyArray, "*views N 2"] | Placeholder | None = None
    absolute_offset: Float[AnyArray, "*views N 2"] | Placeholder | None = None
    features: Float[AnyArray, "*features N C"] | Placeholder | None = None

    @property
    def scenes(self) -> tuple[int, ...]:
        """Axes of scenes that gaussians and cameras share, () for one scene."""
        return leading_axes(self.gaussians, self.cameras)

    @property
    def views(self) -> int:
        """V', views of all scenes."""
        return math.prod(self.scenes) * len(self.cameras)

    @property
    def traced(self) -> bool:
        """Whether some array is traced by jit, grad or another transformation."""
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self))


def leading_axes(gaussians: Gaussians, cameras: Cameras) -> tuple[int, ...]:
    """Finds the axes of scenes, which gaussians and cameras share or one of them lacks.

    Args:
        gaussians: N gaussians.
        cameras: V cameras.

    Returns:
        The axes before N and V, () for one scene.

    Raises:
        ValueError: A shape does not fit, or the camera model is unknown.
    """
    scenes = _check_gaussians(gaussians)
    over = _check_cameras(cameras)
    if scenes and over and scenes != over:
        raise ValueError(
            f"gaussians have leading axes {scenes} and cameras {over}; expected the same, or none in one of them"
        )
    return scenes or over


def check_inputs(inputs: Inputs) -> None:
    """Checks the shapes of all arrays against each other.

    Args:
        inputs: Arrays of any shape.

    Raises:
        ValueError: A shape does not fit, or the camera model is unknown.
    """
    every_view = (*inputs.scenes, len(inputs.cameras))
    cameras, features, rows = inputs.cameras, inputs.features, inputs.gaussians.means.shape[:-1]
    every_row = (*every_view, rows[-1])
    backgrounds = [(), (3,), (*every_view, 3), (*every_view, cameras.height, cameras.width, 3)]
    _expect("background", inputs.background, backgrounds)
    if inputs.active is not None:
        _expect("active", inputs.active, [rows])
    for name in ("mean2d_offset", "absolute_offset"):
        offset = getattr(inputs, name)
        if offset is not None:
            _expect(name, offset, [(*every_row, 2)])
    if features is not None:
        channels = jnp.shape(features)[-1:] or (1,)
        _expect("features", features, [(*rows, *channels), (*every_row, *channels)])


def _expect(name: str, value: Any, shapes: list[tuple[int, ...]]) -> None:
    if jnp.shape(value) not in shapes:
        raise ValueError(f"{name} has shape {jnp.shape(value)}; expected {' or '.join(map(str, shapes))}")


def _check_gaussians(gaussians: Gaussians) -> tuple[int, ...]:
    if gaussians.means.ndim < 2 or gaussians.means.shape[-1] != 3:
        raise ValueError(f"gaussians.means has shape {gaussians.means.shape}; expected (..., N, 3)")
    rows = gaussians.means.shape[:-1]
    for name, width in {"quats": (4,), "log_scales": (3,), "opacity_logits": ()}.items():
        _expect(f"gaussians.{name}", getattr(gaussians, name), [(*rows, *width)])
    sh = gaussians.sh.shape
    if sh[:-2] != rows or sh[-1] != 3 or sh[-2] not in (1, 4, 9, 16, 25):
        raise ValueError(f"gaussians.sh has shape {sh}; expected {(*rows, 'K', 3)} with K of 1, 4, 9, 16 or 25")
    return rows[:-1]


def _check_cameras(cameras: Cameras) -> tuple[int, ...]:
    pose, intrinsics = cameras.world_to_camera.shape, cameras.intrinsics.shape
    if len(pose) < 3 or pose[-2:] != (4, 4) or intrinsics != (*pose[:-2], 3, 3):
        raise ValueError(
            f"cameras have shapes {pose} and {intrinsics}; expected [..., V, 4, 4] and [..., V, 3, 3] (one "
            f"camera needs a leading axis too)"
        )
    if cameras.model not in DISTORTIONS:
        raise ValueError(f"the camera model is {cameras.model!r}; expected one of {', '.join(DISTORTIONS)}")
    if cameras.distortion is not None:
        shapes = [(*pose[:-2], number) for number in DISTORTIONS[cameras.model]]
        if cameras.distortion.shape not in shapes:
            raise ValueError(
                f"cameras.distortion has shape {cameras.distortion.shape}; a camera of model {cameras.model!r} "
                f"takes {' or '.join(map(str, shapes)) or 'none'}"
            )
    return pose[:-3]
