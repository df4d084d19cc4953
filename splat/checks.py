"""Shapes of what `render` is given, checked before anything is traced; errors name what was expected."""

import jax
import jax.numpy as jnp

from splat.cameras import Cameras
from splat.gaussians import Gaussians


DISTORTIONS = {"pinhole": (4, 5, 8), "fisheye": (4,), "orthographic": ()}


def leading_axes(gaussians: Gaussians, cameras: Cameras) -> tuple[int, ...]:
    """Axes of scenes before those of views and gaussians, which both share or one of them lacks.

    Raises:
      ValueError: a shape does not fit, or the camera model is unknown.
    """
    scenes = _check_gaussians(gaussians)
    over = _check_cameras(cameras)
    if scenes and over and scenes != over:
        raise ValueError(
            f"gaussians have leading axes {scenes} and cameras {over}; expected the same, or none in one of them"
        )
    return scenes or over


def check_extras(
    gaussians: Gaussians,
    cameras: Cameras,
    background: float | jax.Array,
    active: jax.Array | None,
    features: jax.Array | None,
    offsets: dict[str, jax.Array | None],
) -> None:
    """Checks what else `render` takes.

    Raises:
      ValueError: a shape does not fit.
    """
    lead = leading_axes(gaussians, cameras)
    scenes, count, views = gaussians.means.shape[:-2], len(gaussians), len(cameras)
    every_view = (*lead, views)
    shapes = [(), (3,), (*every_view, 3), (*every_view, cameras.height, cameras.width, 3)]
    _expect("background", background, shapes)
    if active is not None:
        _expect("active", active, [(*scenes, count)])
    for name, offset in offsets.items():
        if offset is not None:
            _expect(name, offset, [(*every_view, count, 2)])
    if features is not None:
        channels = jnp.shape(features)[-1:] or (1,)
        _expect("features", features, [(*scenes, count, *channels), (*every_view, count, *channels)])


def _expect(name: str, value: float | jax.Array, shapes: list[tuple[int, ...]]) -> None:
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
