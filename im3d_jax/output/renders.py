"""Pictures of a finished asset: its views as straight-alpha images, and the cameras of a turntable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from splat import Cameras, Gaussians, count_pairs, look_at, render, round_capacity


# Numbers of gaussians and of views are rounded up, so that assets of about one size share compiled programs.
_GAUSSIANS_AT_ONCE, _VIEWS_AT_ONCE = 2048, 8
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
    parts = [cameras[jnp.asarray(part)] for part in order.reshape(-1, at_once)]
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
        return jnp.pad(leaf, [(0, rows - count)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree.map(pad, gaussians), jnp.arange(rows) < count


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """An orbit like the one that given cameras stand on.

    Attributes:
        centre: [3] the point nearest to all optical axes.
        up: [3] mean of the upward directions, of length one.
        ahead: [3] level direction from the centre to the first camera.
        distance: Mean distance of the cameras.
        elevation: Mean elevation in radians.
    """

    centre: np.ndarray
    up: np.ndarray
    ahead: np.ndarray
    distance: float
    elevation: float


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
    centre, up, ahead, distance, elevation = turn.centre, turn.up, turn.ahead, turn.distance, turn.elevation
    left = np.cross(up, ahead)
    azimuth = 2.0 * np.pi * np.arange(frames)[:, None] / frames
    level = np.cos(azimuth) * ahead[None] + np.sin(azimuth) * left[None]
    eyes = centre[None] + distance * (np.cos(elevation) * level + np.sin(elevation) * up[None])
    centres = jnp.broadcast_to(jnp.asarray(centre, jnp.float32)[None], (frames, 3))
    extrinsics = look_at(jnp.asarray(eyes, jnp.float32), centres, jnp.asarray(up, jnp.float32))
    intrinsics = np.array(cameras.intrinsics[0])
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    intrinsics[0] *= width / cameras.width
    intrinsics[1] *= height / cameras.height
    return Cameras(extrinsics, jnp.broadcast_to(jnp.asarray(intrinsics)[None], (frames, 3, 3)), width, height)
