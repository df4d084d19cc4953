"""Pictures of a finished asset: its views as straight-alpha images, and the orbits that cameras stand on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from splat import Cameras, Gaussians, count_pairs, look_at, render, round_capacity
from splat.io.files import Rows


# Numbers of gaussians and of views are rounded up, so that assets of about one size share compiled programs.
_GAUSSIANS_AT_ONCE, _VIEWS_AT_ONCE = 2048, 8
FOV_DEG, ELEVATION_DEG = 33.8, 15.0  # of the first look at gaussians without views
_MARGIN = 1.1
_MANY_GAUSSIANS = 1 << 18  # of which one view at a time is drawn, because projections of eight fill the memory


def render_views(gaussians: Gaussians, cameras: Cameras) -> np.ndarray:
    """Renders an asset.

    Args:
        gaussians: N gaussians.
        cameras: V cameras.

    Returns:
        float32 `[V, H, W, 4]`, straight alpha; colours are clipped to [0, 1].
    """
    gaussians, active = _padded(gaussians)
    count = len(cameras)
    at_once = _VIEWS_AT_ONCE if len(gaussians) <= _MANY_GAUSSIANS else 1
    order = np.minimum(np.arange(-(-count // at_once) * at_once), count - 1)
    leaves, structure = jax.tree.flatten(cameras)
    in_parts = [np.asarray(leaf)[order].reshape(-1, at_once, *leaf.shape[1:]) for leaf in leaves]
    parts = [structure.unflatten(map(jnp.asarray, part)) for part in zip(*in_parts, strict=True)]
    pairs = max(count_pairs(gaussians, part, active=active) for part in parts)
    capacity = 1 << (round_capacity(pairs) - 1).bit_length()
    images = []
    for part in parts:
        rendered = render(gaussians, part, background=0.0, capacity=capacity, active=active)
        alpha = np.asarray(rendered.alpha)[..., None]
        rgb = np.asarray(rendered.rgb) / np.maximum(alpha, 1e-6)
        images.append(np.concatenate([rgb, alpha], -1).clip(0.0, 1.0))
    return np.concatenate(images)[:count].astype(np.float32)


def _padded(gaussians: Gaussians) -> tuple[Gaussians, jax.Array]:
    """Gaussians with inactive rows behind them, and the mask of the active ones."""
    count = len(gaussians)
    rows = max(1, -(-count // _GAUSSIANS_AT_ONCE)) * _GAUSSIANS_AT_ONCE

    def pad(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(np.pad(np.asarray(leaf), [(0, rows - count)] + [(0, 0)] * (leaf.ndim - 1)))

    # In numpy: every count of gaussians would compile operations of its own.
    return jax.tree.map(pad, gaussians), jnp.asarray(np.arange(rows) < count)


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """An orbit: that of given cameras (`find_turn`), or one around gaussians (`turn_around`).

    Attributes:
        centre: [3] what the cameras look at: the point nearest to all optical axes.
        up: [3] axis of the orbit, of length one: mean of the upward directions.
        ahead: [3] level direction from the centre to the first camera, of length one.
        distance: Mean distance of the cameras from the centre.
        elevation: Mean elevation in radians.
    """

    centre: np.ndarray
    up: np.ndarray
    ahead: np.ndarray
    distance: float
    elevation: float

    def places(self, azimuths: np.ndarray, elevations: np.ndarray | float) -> np.ndarray:
        """Points [T, 3] on the sphere of the orbit, float64.

        Args:
            azimuths: [T] from the first camera, counter-clockwise seen from above, in radians.
            elevations: [T] or one for all, in radians.
        """
        left = np.cross(self.up, self.ahead)
        azimuth, elevation = azimuths[:, None], np.asarray(elevations)[..., None]
        level = np.cos(azimuth) * self.ahead[None] + np.sin(azimuth) * left[None]
        return self.centre[None] + self.distance * (np.cos(elevation) * level + np.sin(elevation) * self.up[None])

    def poses(self, azimuths: np.ndarray, elevations: np.ndarray | float) -> jax.Array:
        """World-to-camera matrices [T, 4, 4] that look at the centre from `places`, upright."""
        centres = jnp.broadcast_to(jnp.asarray(self.centre, jnp.float32)[None], (len(azimuths), 3))
        eyes = jnp.asarray(self.places(azimuths, elevations), jnp.float32)
        return look_at(eyes, centres, jnp.asarray(self.up, jnp.float32))


def find_turn(cameras: Cameras) -> Turn:
    """Finds the orbit of cameras, at least two and not all with one optical axis."""
    poses = np.asarray(cameras.world_to_camera, np.float64)
    rotations = poses[:, :3, :3]
    positions = -np.einsum("vji,vj->vi", rotations, poses[:, :3, 3])
    forward = rotations[:, 2]
    across = np.eye(3)[None] - forward[:, :, None] * forward[:, None, :]
    # Parallel axes meet nowhere: a faint pull towards a point in front of the cameras decides then.
    spread = np.linalg.norm(positions - positions.mean(0)[None], axis=1).mean()
    ahead_of_all = positions.mean(0) + max(spread, 1.0) * forward.mean(0)
    centre = np.linalg.solve(
        across.sum(0) + 1e-6 * np.eye(3), np.einsum("vij,vj->i", across, positions) + 1e-6 * ahead_of_all
    )
    up = -rotations[:, 1].mean(0)
    up /= np.linalg.norm(up)
    offsets = positions - centre[None]
    distance = np.linalg.norm(offsets, axis=1).mean()
    heights = offsets @ up
    elevation = np.arcsin(np.clip(heights / np.linalg.norm(offsets, axis=1), -0.99, 0.99)).mean()
    ahead = offsets[0] - heights[0] * up
    if np.linalg.norm(ahead) < 1e-6 * distance:  # the first camera stands on the axis
        ahead = rotations[0, 0] - (rotations[0, 0] @ up) * up
    ahead /= np.linalg.norm(ahead)
    return Turn(centre, up, ahead, distance, elevation)


def turn_around(rows: Rows, up: np.ndarray, ahead: np.ndarray) -> Turn:
    """The orbit that sees all gaussians, with the field of view of `FOV_DEG`, from a little above.

    Args:
        rows: At least one gaussian.
        up: [3] axis, of length one.
        ahead: [3] level direction to the first camera, of length one.
    """
    centre, radius = bounds(rows)
    distance = _MARGIN * radius / math.sin(math.radians(FOV_DEG) / 2.0)
    return Turn(centre, up, ahead, distance, math.radians(ELEVATION_DEG))


def bounds(rows: Rows) -> tuple[np.ndarray, float]:
    """Centre [3] and radius of what is visible: stray gaussians do not count."""
    visible = rows.opacity_logits > -2.0
    means = rows.means[visible] if visible.sum() >= max(1, len(rows) // 10) else rows.means
    low, high = np.percentile(means, [1, 99], axis=0)
    centre = 0.5 * (low + high)
    radius = float(np.percentile(np.linalg.norm(means - centre[None], axis=1), 99))
    return centre, max(radius, 1e-3)


def fov_deg_of(cameras: Cameras) -> float:
    """Field of view of the shorter side of the first camera's picture."""
    lens = np.asarray(cameras.intrinsics[0], np.float64)
    shorter = min(cameras.width / lens[0, 0], cameras.height / lens[1, 1])
    return 2.0 * math.degrees(math.atan(0.5 * shorter))


def turntable_cameras(cameras: Cameras, frames: int, scale: float = 1.0) -> Cameras:
    """An orbit like the one that given cameras stand on.

    The new cameras look at the point nearest to all optical axes from the mean distance and elevation, round
    the mean of the upward directions. Frame 0 has the azimuth of the first camera; the orbit goes
    counter-clockwise seen from above, and for the project's own rig it is that rig.

    Args:
        cameras: at least two, not all with one optical axis.
        frames: cameras of the result.
        scale: factor on the size of the images.
    """
    turn = find_turn(cameras)
    extrinsics = turn.poses(2.0 * np.pi * np.arange(frames) / frames, turn.elevation)
    intrinsics = np.array(cameras.intrinsics[0])
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    intrinsics[0] *= width / cameras.width
    intrinsics[1] *= height / cameras.height
    return Cameras(extrinsics, jnp.broadcast_to(jnp.asarray(intrinsics)[None], (frames, 3, 3)), width, height)
