"""Depth maps of posed pictures by plane sweep (Collins 1996), and the points on which several of them agree.

Every pixel of a reference view tries a list of depths. At each of them the neighbouring views, warped onto that depth,
are compared with the reference by normalised cross-correlation of small windows, which does not mind brightness and
contrast. Of fisheye cameras depth is the distance from the camera, and planes are spheres. A depth counts if the best
correlation is high and alone, and if the depth map of another view puts the same surface there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.images.resize import resize
from im3d_jax.reconstruction.initial import camera_extent, look_centre
from im3d_jax.reconstruction.rays import pixel_rays
from splat import Cameras
from splat.lenses import image_points


# Pixels of the reduced pictures that are swept, at most: about 160 x 100.
PIXELS = 16_000
REFERENCES = 32
NEIGHBOURS = 4
DEPTHS = 64
WINDOW = 5
# Nearest and farthest depth tried, in units of the distance that the cameras look at.
NEAR, FAR = 0.2, 30.0
# Angle between two views of one point that is best to compare them, and bounds of those that will do, in degrees.
BEST_ANGLE, LEAST_ANGLE, LARGEST_ANGLE = 8.0, 1.0, 35.0
# Largest angle between the optical axes of compared views, in degrees.
LARGEST_TURN = 50.0
LEAST_CORRELATION = 0.7
# By how much the best correlation exceeds those at other depths.
LEAST_LEAD = 0.03
# Standard deviation of grey in a window below which there is nothing to compare.
LEAST_CONTRAST = 0.012
# Depth maps agree within this share of the depth.
AGREEMENT = 0.04
_THINNING_ROUNDS = 50


class SmallViews(NamedTuple):
    """Reduced pictures.

    Attributes:
        rgb: [V, h, w, 3].
        valid: [V, h, w] bool of the pixels that count.
        cameras: Of the reduced pictures.
    """

    rgb: np.ndarray
    valid: np.ndarray
    cameras: Cameras


class DepthMaps(NamedTuple):
    """Depths of reference views.

    Attributes:
        views: [R] int, places of the reference views among all.
        rays: [R, h * w, 3], see `pixel_rays`.
        depth: [R, h * w]; along z for pinhole cameras and along the ray for fisheye cameras.
        found: [R, h * w] bool: elsewhere the depth means nothing.
    """

    views: np.ndarray
    rays: np.ndarray
    depth: np.ndarray
    found: np.ndarray


class Cloud(NamedTuple):
    """Points with colours.

    Attributes:
        points: [n, 3] in the world.
        colours: [n, 3] in [0, 1].
        sizes: [n], world units that a pixel of the reduced pictures covers there.
    """

    points: np.ndarray
    colours: np.ndarray
    sizes: np.ndarray


def small_views(rgba: np.ndarray, cameras: Cameras, valid: np.ndarray | None = None) -> SmallViews:
    """Pictures [V, H, W, 4] of at most `PIXELS` pixels and their cameras; pixels next to invalid ones are invalid."""
    height, width = rgba.shape[1:3]
    scale = min(1.0, (PIXELS / (height * width)) ** 0.5)
    w, h = max(WINDOW + 2, round(width * scale)), max(WINDOW + 2, round(height * scale))
    if (w, h) == (width, height):
        rgb, small = rgba[..., :3], np.ones(rgba.shape[:3], bool) if valid is None else np.asarray(valid)
        return SmallViews(np.asarray(rgb, np.float32), small, cameras)
    # What does not count is transparent for the resampling, so that its colours do not bleed into what does.
    counted = rgba if valid is None else np.concatenate([rgba[..., :3], valid[..., None].astype(np.float32)], axis=-1)
    reduced = np.stack([resize(view, w, h) for view in counted])
    small = np.ones(reduced.shape[:3], bool) if valid is None else reduced[..., 3] > 0.99
    stretch = jnp.asarray([w / width, h / height, 1.0], jnp.float32)
    cameras = dataclasses.replace(cameras, intrinsics=cameras.intrinsics * stretch[None, :, None], width=w, height=h)
    return SmallViews(reduced[..., :3], small, cameras)


def usual_depths(cameras: Cameras) -> np.ndarray:
    """The distance [V] that every view looks at: of the look centre, or three extents where there is none.

    Parallel axes, and cameras that look outwards, have no common centre in front of them.
    """
    pose = np.asarray(cameras.world_to_camera, np.float64)
    depth = pose[:, 2, :3] @ look_centre(cameras) + pose[:, 2, 3]
    extent = camera_extent(cameras)
    return np.where(depth > 0.5 * extent, depth, max(3.0 * extent, float(np.median(depth))))


def neighbours(cameras: Cameras, depths: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For every view those that compare best with it.

    Args:
        cameras: Of V views.
        depths: [V] distance that every view looks at.
        among: [A] int, the views to choose from.
        count: Neighbours of each, at most A - 1.

    Returns:
        Views [V, count] int, and usable [V, count] bool: the others are too near, too far or turned away.
    """
    eyes, axes = np.asarray(cameras.positions, np.float64), np.asarray(cameras.world_to_camera, np.float64)[:, 2, :3]
    baseline = np.linalg.norm(eyes[:, None] - eyes[None, among], axis=-1)
    angle = np.degrees(np.arctan2(baseline, depths[:, None]))
    turn = np.degrees(np.arccos((axes @ axes[among].T).clip(-1.0, 1.0)))
    usable = (angle >= LEAST_ANGLE) & (angle <= LARGEST_ANGLE) & (turn <= LARGEST_TURN)
    usable &= among[None] != np.arange(len(eyes))[:, None]
    rank = np.abs(np.log(np.maximum(angle, 1e-3) / BEST_ANGLE)) + np.where(usable, 0.0, 1e3)
    order = np.argsort(rank, axis=1, kind="stable")[:, :count]
    return among[order], np.take_along_axis(usable, order, axis=1)


def _box(values: jax.Array) -> jax.Array:
    """Sums over windows of the last two axes; zero outside."""
    half = WINDOW // 2
    for axis in (-2, -1):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (half, half)
        padded, length = jnp.pad(values, pad), values.shape[axis]
        values = sum(
            (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(1, WINDOW)),
            start=jax.lax.slice_in_dim(padded, 0, length, axis=axis),
        )
    return values


@jax.jit
def sweep_view(
    grey: jax.Array,
    rays: jax.Array,
    others: jax.Array,
    cameras: Cameras,
    motions: jax.Array,
    inverse_depths: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The depth of every pixel of a view at which its neighbours correlate best with it.

    Args:
        grey: [h, w] of the reference, NaN where pixels do not count.
        rays: [h * w, 3], see `pixel_rays`.
        others: [K, h, w] grey of its neighbours, NaN where pixels do not count.
        cameras: Of the neighbours.
        motions: [K, 3, 4] from the reference's space to theirs.
        inverse_depths: [D] evenly spaced.

    Returns:
        Inverse depth [h * w], and found [h * w] bool.
    """
    height, width = grey.shape
    count = WINDOW * WINDOW
    turned = jnp.einsum("kij,nj->kin", motions[:, :, :3], rays, precision="highest")
    # Sums of windows with a pixel that does not count become NaN, and so do their correlations. The shift by the mid
    # grey leaves float32 more digits for the variances.
    grey, flat = grey - 0.5, (others - 0.5).reshape(len(others), -1)
    mean = _box(grey) / count
    variance = jnp.maximum(_box(grey * grey) / count - mean * mean, 0.0)

    def correlation(inverse: jax.Array) -> jax.Array:
        """[h * w] at one depth: the mean of the two best neighbours, -1 where none sees the window."""
        local = turned + inverse * motions[:, :, 3, None]
        image = image_points(cameras, local[:, 0], local[:, 1], jnp.maximum(local[:, 2], 1e-6))
        column, row = image.u - 0.5, image.v - 0.5
        left, top = jnp.floor(column), jnp.floor(row)
        inside = image.seen & (local[:, 2] > 1e-3)
        inside &= (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
        place = jnp.where(inside, top * width + left, 0.0).astype(jnp.int32)
        across, down = column - left, row - top

        def take(offset: int) -> jax.Array:
            return jnp.take_along_axis(flat, place + offset, axis=1, mode="promise_in_bounds")

        upper = take(0) + across * (take(1) - take(0))
        lower = take(width) + across * (take(width + 1) - take(width))
        sample = jnp.where(inside, upper + down * (lower - upper), jnp.nan).reshape(-1, height, width)
        other_mean = _box(sample) / count
        other_variance = jnp.maximum(_box(sample * sample) / count - jnp.square(other_mean), 0.0)
        product = _box(sample * grey[None]) / count - other_mean * mean[None]
        ncc = product / jnp.sqrt(variance[None] * other_variance + 1e-9)
        ncc = jnp.where(jnp.isnan(ncc), -1.0, ncc)
        best = second = jnp.full((height, width), -1.0)
        for one in ncc:
            second = jnp.maximum(second, jnp.minimum(best, one))
            best = jnp.maximum(best, one)
        # A single view must convince alone.
        return jnp.where(second > -1.0, 0.5 * (best + second), best - 0.1).reshape(-1)

    volume = jax.lax.map(correlation, inverse_depths)
    last = len(inverse_depths) - 1
    place = jnp.argmax(volume, axis=0)
    highest = jnp.max(volume, axis=0)
    apart = jnp.abs(jnp.arange(last + 1)[:, None] - place[None]) > 2
    elsewhere = jnp.max(jnp.where(apart, volume, -1.0), axis=0)
    # The vertex of the parabola through the best and its two neighbours.
    before, after = (jnp.take_along_axis(volume, jnp.clip(place + step, 0, last)[None], axis=0)[0] for step in (-1, 1))
    bend = before + after - 2.0 * highest
    shift = jnp.where(bend < -1e-6, 0.5 * (before - after) / jnp.minimum(bend, -1e-6), 0.0)
    step = inverse_depths[1] - inverse_depths[0]
    inverse = inverse_depths[0] + (place + jnp.clip(shift, -0.5, 0.5)) * step
    found = (highest > LEAST_CORRELATION) & (highest - elsewhere > LEAST_LEAD)
    found &= (variance.reshape(-1) > LEAST_CONTRAST**2) & (place > 0) & (place < last)
    return inverse, found


def depth_maps(views: SmallViews, report: Callable[[int, int], Any] = lambda done, total: None) -> DepthMaps:
    """Depth maps of up to `REFERENCES` views, each compared with its `NEIGHBOURS` best neighbours.

    Args:
        views: At least 3.
        report: Called with (views done, all).
    """
    cameras, total = views.cameras, len(views.rgb)
    depths = usual_depths(cameras)
    chosen = np.unique(np.linspace(0, total - 1, min(total, REFERENCES)).round().astype(int))
    others, usable = neighbours(cameras, depths, np.arange(total), min(NEIGHBOURS, total - 1))
    grey = np.where(views.valid, views.rgb @ np.array([0.299, 0.587, 0.114], np.float32), np.float32("nan"))
    rays, seen = (np.asarray(part) for part in pixel_rays(cameras[jnp.asarray(chosen)]))
    pose = np.asarray(cameras.world_to_camera, np.float64)
    depth, found = np.ones(seen.shape, np.float32), np.zeros(seen.shape, bool)
    for place, view in enumerate(chosen):
        report(place, len(chosen))
        if not usable[view].any():
            continue
        near = others[view]
        motions = (pose[near] @ np.linalg.inv(pose[view])[None])[:, :3]
        hypotheses = np.linspace(1.0 / FAR, 1.0 / NEAR, DEPTHS) / depths[view]
        inverse, good = sweep_view(
            np.where(seen[place].reshape(grey[view].shape), grey[view], np.float32("nan")),
            rays[place],
            np.where(usable[view][:, None, None], grey[near], np.float32("nan")),
            cameras[jnp.asarray(near)],
            jnp.asarray(motions, jnp.float32),
            jnp.asarray(hypotheses, jnp.float32),
        )
        depth[place], found[place] = 1.0 / np.maximum(np.asarray(inverse), 1e-12), np.asarray(good)
    report(len(chosen), len(chosen))
    return DepthMaps(chosen, rays, depth, found)


def world_points(maps: DepthMaps, cameras: Cameras) -> np.ndarray:
    """Points [R, h * w, 3] in the world of all pixels of the reference views."""
    inverse = np.linalg.inv(np.asarray(cameras.world_to_camera, np.float64)[maps.views])
    local = maps.rays * maps.depth[..., None]
    return np.einsum("rij,rnj->rni", inverse[:, :3, :3], local) + inverse[:, None, :3, 3]


@jax.jit
def _agreement(points: jax.Array, cameras: Cameras, depths: jax.Array, found: jax.Array) -> tuple[jax.Array, jax.Array]:
    """In how many depth maps [K, h * w] points [n, 3] lie on the surface, and in how many clearly before it: [n]."""
    pose = cameras.world_to_camera
    local = jnp.einsum("kij,nj->kin", pose[:, :3, :3], points, precision="highest") + pose[:, :3, 3, None]
    image = image_points(cameras, local[:, 0], local[:, 1], jnp.maximum(local[:, 2], 1e-6))
    seen = image.seen & (local[:, 2] > 1e-6)
    seen &= (image.u >= 0) & (image.u < cameras.width) & (image.v >= 0) & (image.v < cameras.height)
    column = jnp.where(seen, image.u, 0.0).astype(jnp.int32)
    row = jnp.where(seen, image.v, 0.0).astype(jnp.int32)
    pixel = row * cameras.width + column
    seen &= jnp.take_along_axis(found, pixel, axis=1)
    there = jnp.linalg.norm(local, axis=1) if cameras.model == "fisheye" else local[:, 2]
    share = there / jnp.take_along_axis(depths, pixel, axis=1)
    agree = jnp.sum(seen & (jnp.abs(share - 1.0) < AGREEMENT), axis=0)
    return agree, jnp.sum(seen & (share < 1.0 - 2.0 * AGREEMENT), axis=0)


def consistent(maps: DepthMaps, cameras: Cameras) -> np.ndarray:
    """Pixels [R, h * w] bool whose point lies on the surface of another depth map, and before that of none or few.

    The left-right check of stereo (Fua 1993), over the best neighbours of every view.
    """
    points = world_points(maps, cameras)
    near, usable = neighbours(cameras, usual_depths(cameras), maps.views, min(NEIGHBOURS, len(maps.views) - 1))
    kept = np.zeros(maps.found.shape, bool)
    for place, view in enumerate(maps.views):
        slots = np.searchsorted(maps.views, near[view])
        found = maps.found[slots] & usable[view][:, None]
        counts = _agreement(
            jnp.asarray(points[place], jnp.float32), cameras[jnp.asarray(near[view])], maps.depth[slots], found
        )
        agree, against = (np.asarray(count) for count in counts)
        kept[place] = maps.found[place] & (agree > 0) & (agree >= against)
    return kept


def cloud_of(maps: DepthMaps, views: SmallViews, kept: np.ndarray) -> Cloud:
    """The points of the pixels `kept` [R, h * w] bool."""
    points = world_points(maps, views.cameras)[kept]
    colours = views.rgb[maps.views].reshape(*kept.shape, 3)[kept]
    focal = np.asarray(views.cameras.intrinsics)[maps.views][:, [0, 1], [0, 1]].mean(axis=-1)
    return Cloud(points, colours, (maps.depth / focal[:, None])[kept])


def thinned(cloud: Cloud, most: int) -> Cloud:
    """The means of the points in each of at most so many cells, whose sides follow the size of a pixel there.

    Args:
        cloud: n points.
        most: At least 1.
    """
    if not len(cloud.points):
        return cloud
    inverse = members = np.zeros(0, int)
    level = np.round(np.log2(np.maximum(cloud.sizes, 1e-12)))
    factor = 1.0
    for _ in range(_THINNING_ROUNDS):
        side = factor * np.exp2(level)
        cells = np.concatenate([np.floor(cloud.points / side[:, None]), level[:, None]], axis=-1).astype(np.int64)
        _, inverse, members = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        if len(members) <= most:
            break
        # Points lie on surfaces: their cells go with the square of the side.
        factor *= max(1.05, (len(members) / most) ** 0.5)
    inverse = inverse.reshape(-1)
    # Cells of different sizes never merge: where there are more sizes than wanted points, the fullest cells stay.
    fullest = np.sort(np.argsort(-members, kind="stable")[:most])

    def mean(values: np.ndarray) -> np.ndarray:
        columns = values.reshape(len(values), -1).T
        sums = np.stack([np.bincount(inverse, column, len(members)) for column in columns], axis=-1)
        return (sums / members[:, None])[fullest].reshape(len(fullest), *values.shape[1:])

    return Cloud(mean(cloud.points), mean(cloud.colours), mean(cloud.sizes) * factor)
