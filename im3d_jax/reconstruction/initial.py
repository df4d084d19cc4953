"""Where a fit starts: gaussians in a ball, on given points, or inside the views' visual hull."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from im3d_jax.reconstruction.presets import FitConfig, HullStart, PictureStart
from im3d_jax.reconstruction.surface import Surface
from splat import SH_C0, Cameras, Gaussians
from splat.lenses import image_points


# Masks that leave fewer points than this contradict each other, or show next to nothing.
FEWEST_HULL_POINTS = 100
# Radians between a camera's axis and the way to the look centre that are rounding.
_ON_AXIS = 1e-4


def look_centre(cameras: Cameras) -> np.ndarray:
    """The point [3] nearest to all optical axes in the least-squares sense."""
    pose = np.asarray(cameras.world_to_camera, np.float64)
    eyes, forward = np.asarray(cameras.positions, np.float64), pose[:, 2, :3]
    across = np.eye(3)[None] - forward[:, :, None] * forward[:, None, :]
    # A single or parallel views leave the depth open; the small pull towards the eyes' mean closes it.
    matrix = across.sum(0) + 1e-6 * len(eyes) * np.eye(3)
    return np.linalg.solve(matrix, np.einsum("vij,vj->i", across, eyes) + 1e-6 * eyes.sum(0))


def camera_extent(cameras: Cameras) -> float:
    """1.1 times the largest distance of a camera from the cameras' mean (Kerbl et al.'s scene extent)."""
    eyes = np.asarray(cameras.positions, np.float64)
    return max(1.1 * float(np.linalg.norm(eyes - eyes.mean(0)[None], axis=-1).max()), 1e-3)


def seen_radius(cameras: Cameras) -> float:
    """Radius around the look centre that every view contains.

    Of a pinhole camera this is the distance of the look centre from the nearest of the four planes through the eye and
    an edge of the picture; of a fisheye camera, that from the cone that touches the nearest edge. Lens distortion does
    not count. Where some cameras look past the centre, the radius is at least half of what the narrowest angle of view
    would leave if they looked at it.
    """
    centre = look_centre(cameras)
    lens, sides = np.asarray(cameras.intrinsics), np.array([cameras.width, cameras.height], np.float32)[None]
    focal, principal = np.stack([lens[:, 0, 0], lens[:, 1, 1]], axis=-1), lens[:, :2, 2]
    # [V, 2, 2]: distance of the left and upper, and of the right and lower edge from the principal point, over focal.
    slopes = np.stack([principal / focal, (sides - principal) / focal], axis=-1)
    fisheye = cameras.model == "fisheye"
    angles = np.minimum(slopes, np.float32(0.5 * np.pi)) if fisheye else np.arctan(slopes)
    distance = np.linalg.norm(np.asarray(cameras.positions) - centre[None], axis=-1)
    pose = np.asarray(cameras.world_to_camera, np.float64)
    local = pose[:, :3, :3] @ centre + pose[:, :3, 3]
    off_axis = np.arctan2(np.linalg.norm(local[:, :2], axis=-1), local[:, 2])
    if off_axis.max() < _ON_AXIS:
        inside = distance * np.sin(angles.min(axis=(1, 2)))
    elif fisheye:
        inside = distance * np.sin((angles.min(axis=(1, 2)) - off_axis).clip(-0.5 * np.pi, 0.5 * np.pi))
    else:
        signs = np.array([1.0, -1.0])[None, None]
        planes = (slopes * local[:, 2, None, None] + signs * local[:, :2, None]) / np.sqrt(1.0 + slopes**2)
        inside = planes.min(axis=(1, 2))
    # Whole angles of view, halved: a principal point at the edge must not make the least radius nothing.
    least = 0.5 * distance * np.sin(0.5 * angles.sum(axis=-1).min(axis=-1))
    return max(float(np.min(inside)), float(np.min(least)), 1e-6)


def ball_points(key: jax.Array, count: int, radius: float) -> jax.Array:
    """Points [count, 3] uniform in a ball around the origin."""
    key_direction, key_radius = jax.random.split(key)
    direction = jax.random.normal(key_direction, (count, 3))
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return direction * radius * jnp.cbrt(jax.random.uniform(key_radius, (count, 1)))


def pixels_of(points: np.ndarray, camera: Cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that points fall on.

    Args:
        points: [N, 3] world positions.
        camera: A single one.

    Returns:
        Column and row [N] int inside the image, and seen [N] bool: elsewhere the pixel means nothing.
    """
    pose, lens = np.asarray(camera.world_to_camera[0]), np.asarray(camera.intrinsics[0])
    local = points @ pose[:3, :3].T + pose[None, :3, 3]
    if camera.model == "pinhole" and camera.distortion is None:
        pixel = local @ lens.T
        places = [np.floor(pixel[:, i] / np.maximum(pixel[:, 2], 1e-6)) for i in (0, 1)]
        seen = local[:, 2] > 0
    else:
        ahead = np.maximum(local[:, 2], 1e-6)
        image = image_points(camera, *jnp.asarray(np.stack([local[:, 0], local[:, 1], ahead]))[:, None])
        places = [np.floor(np.nan_to_num(np.asarray(place[0]), nan=-1.0)) for place in (image.u, image.v)]
        seen = (local[:, 2] > 0) & np.asarray(image.seen[0])
    column, row = (np.clip(np.nan_to_num(place, nan=-1.0), -1, 1e6).astype(int) for place in places)
    seen &= (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    return column.clip(0, camera.width - 1), row.clip(0, camera.height - 1), seen


def hull_points(
    key: jax.Array, rgba: np.ndarray, cameras: Cameras, count: int, valid: np.ndarray | None = None
) -> np.ndarray:
    """Points inside the visual hull: where every view that sees them has alpha above one half.

    Args:
        key: PRNG key.
        rgba: [V, H, W, 4] straight alpha; without any transparency the hull is the whole ball that is seen.
        cameras: Of the views.
        count: Points wanted.
        valid: [V, H, W] bool of the pixels that count: the others say nothing. None if all do.

    Returns:
        [n, 3] with n <= count; fewer where the hull is small, none where the masks contradict each other.
    """
    centre, radius = look_centre(cameras), seen_radius(cameras)
    points = np.asarray(ball_points(key, 16 * count, radius)) + centre[None].astype(np.float32)
    inside = np.ones(len(points), bool)
    for view, mask in enumerate(np.asarray(rgba)[..., 3] > 0.5):
        column, row, seen = pixels_of(points, cameras[view])
        if valid is not None:
            seen &= valid[view][row, column]
        inside &= mask[row, column] | ~seen
    return points[inside][:count]


def seen_points(
    key: jax.Array,
    cameras: Cameras,
    count: int,
    rgba: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Points [n, 3] where a capture's object can be: in the hull of the masks or the ball all cameras see."""
    points = np.zeros((0, 3)) if rgba is None else hull_points(key, rgba, cameras, count, valid)
    if len(points) < min(count, FEWEST_HULL_POINTS):
        centre = look_centre(cameras).astype(np.float32)
        points = np.asarray(ball_points(key, count, seen_radius(cameras))) + centre[None]
    return points


def surface_gaussians(
    found: Surface, config: FitConfig, start: HullStart | PictureStart
) -> tuple[Gaussians, jax.Array]:
    """Flat gaussians on a surface, oriented by its normals and as wide as the distance to their neighbours.

    Args:
        found: At most `config.capacity` points.
        config: Of the fit.
        start: Opacity, width and thickness.

    Returns:
        See `initial_gaussians`.
    """
    count, rows = len(found.points), config.capacity
    spacing = np.maximum(found.spacing, 1e-5)[:, None]
    scales = spacing * np.array([[start.width, start.width, start.thickness]])
    # The rotation that turns z into n by the shortest way: (1 + z.n, z x n), for n = -z about x.
    x, y, z = found.normals.T
    quats = np.stack([1.0 + z, -y, x, np.zeros(count)], -1)
    quats[z < -0.9999] = (0.0, 1.0, 0.0, 0.0)
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)

    def padded(values: np.ndarray) -> jax.Array:
        return jnp.pad(jnp.asarray(values, jnp.float32), [(0, rows - count)] + [(0, 0)] * (values.ndim - 1))

    sh = jnp.zeros((rows, (config.sh_degree + 1) ** 2, 3), jnp.float32)
    return Gaussians(
        means=padded(found.points),
        quats=padded(quats).at[count:, 0].set(1.0),
        log_scales=padded(np.log(scales)),
        opacity_logits=jnp.full(rows, math.log(start.opacity / (1 - start.opacity))),
        sh=sh.at[:, 0].set(padded((found.colours - 0.5) / SH_C0)),
    ), jnp.arange(rows) < count


def initial_gaussians(
    key: jax.Array,
    config: FitConfig,
    extent: float,
    points: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> tuple[Gaussians, jax.Array]:
    """Round, faint gaussians, each about as large as its distance to its neighbours.

    Args:
        key: PRNG key.
        config: Capacity, number, radius, opacity and size.
        extent: Size of the scene; the ball's radius is `config.initial_radius` times it.
        points: [n, 3] places, of which at most `config.capacity` are used, drawn at random; otherwise a ball at the
            origin.
        colours: [n, 3] of the points in [0, 1]; grey without.

    Returns:
        `Gaussians` of `config.capacity` rows and the mask [capacity] of those in use.
    """
    if points is None:
        means = ball_points(key, config.initial, config.initial_radius * extent)
        volume = 4 / 3 * math.pi * (config.initial_radius * extent) ** 3
        # About the mean distance to the three nearest of uniform points.
        scales = jnp.full((config.initial,), 0.69 * (volume / config.initial) ** (1 / 3))
    else:
        points = np.asarray(points, np.float32)
        if len(points) > config.capacity:
            chosen = np.sort(np.asarray(jax.random.permutation(key, len(points)))[: config.capacity])
            points, colours = points[chosen], None if colours is None else np.asarray(colours)[chosen]
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < 4:
            raise ValueError(f"got points of shape {points.shape}; expected [n, 3] with n >= 4")
        near = KDTree(points).query(points, k=4)[0][:, 1:]
        means = jnp.asarray(points)
        scales = jnp.asarray(np.sqrt((near**2).mean(-1)).clip(1e-4 * extent, 0.1 * extent), jnp.float32)
    count, rows = len(means), config.capacity
    spare = rows - count
    sh = jnp.zeros((rows, (config.sh_degree + 1) ** 2, 3), jnp.float32)
    if colours is not None:
        sh = sh.at[:count, 0].set((jnp.asarray(colours, jnp.float32) - 0.5) / SH_C0)
    if config.initial_scale != 1.0:
        scales = scales * config.initial_scale
    return Gaussians(
        means=jnp.pad(means.astype(jnp.float32), ((0, spare), (0, 0))),
        quats=jnp.zeros((rows, 4), jnp.float32).at[:, 0].set(1.0),
        log_scales=jnp.pad(jnp.broadcast_to(jnp.log(scales)[:, None], (count, 3)), ((0, spare), (0, 0))),
        opacity_logits=jnp.full(rows, math.log(config.initial_opacity / (1 - config.initial_opacity))),
        sh=sh,
    ), jnp.arange(rows) < count
