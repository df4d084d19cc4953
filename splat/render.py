"""Rendering gaussians: the public entry."""
import warnings
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from splat.binning import TileGrid, build_bins
from splat.binning import count_pairs as count_projected_pairs
from splat.cameras import Cameras
from splat.compositing import composite
from splat.gaussians import Gaussians, replace_unused, usable
from splat.math import safe_divide
from splat.projection import project


DEFAULT_BLOCK = 32


@flax.struct.dataclass
class Rendering:
    """Images of V cameras.

    Attributes:
      rgb: [V, H, W, 3] colour over the background.
      alpha: [V, H, W] coverage in [0, 1].
      depth: [V, H, W] expected camera z over the covered part; 0 where nothing covers the pixel.
      pairs: [] int32, true number of (tile, gaussian) pairs; more than `capacity` means that the image lacks
        some.
      invalid: [] int32, gaussians ignored for non-finite numbers or a zero quaternion.
      radii: [V, N, 2] half sizes in pixels of each gaussian's box, 0 where it touches no pixel.
      capacity: pairs that there was room for (static).
    """

    rgb: jax.Array
    alpha: jax.Array
    depth: jax.Array
    pairs: jax.Array
    invalid: jax.Array
    radii: jax.Array
    capacity: int = flax.struct.field(pytree_node=False)

    @property
    def overflow(self) -> jax.Array:
        """[] bool: pairs were left out; render again with a capacity of at least `pairs`."""
        return self.pairs > self.capacity

    @property
    def visible(self) -> jax.Array:
        """[V, N] bool: the gaussian touches a pixel of the view."""
        return self.radii[..., 0] > 0.0


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: float | jax.Array = 0.0,
    capacity: int | None = None,
    active: jax.Array | None = None,
    mean2d_offset: jax.Array | None = None,
    tile_size: int | None = None,
    block_size: int = DEFAULT_BLOCK,
    slab: int | None = None,
) -> Rendering:
    """Renders gaussians into every camera.

    Differentiable in gaussians, cameras, background and mean2d_offset.

    Args:
      gaussians: N gaussians.
      cameras: V cameras with one image size.
      background: colour behind everything: a scalar, [3] or [V, 3].
      capacity: room for (tile, gaussian) pairs over all views. Under jit or grad it must be given (see
        `count_pairs`) and the caller checks `Rendering.pairs`; otherwise `render` sizes it itself.
      active: [N] bool; inactive gaussians are not drawn and get zero gradients.
      mean2d_offset: [V, N, 2] pixels added to the projected means; its gradient is the screen-space gradient.
      tile_size: edge of a tile in pixels; the default depends on the backend.
      block_size: pairs in one block of a tile's list.
      slab: blocks evaluated together; the default depends on the backend.

    Returns:
      `Rendering`.

    Raises:
      ValueError: capacity missing under jit or grad, or shapes that do not fit.
    """
    _check(gaussians, cameras, background, active, mean2d_offset)
    tile_size, slab, scan = _schedule(tile_size, slab)
    leaves = jax.tree.leaves((gaussians, cameras, background, active, mean2d_offset))
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if capacity is None:
        if traced:
            raise ValueError(
                "render got no capacity inside jit or grad; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras), pad it, and check Rendering.pairs against it"
            )
        capacity = round_capacity(count_pairs(gaussians, cameras, active=active, tile_size=tile_size))
    sizes = max(int(capacity), 1), tile_size, block_size, slab, scan
    out = _render(gaussians, cameras, background, active, mean2d_offset, *sizes)
    if not traced:
        _warn(out)
    return out


def count_pairs(
    gaussians: Gaussians, cameras: Cameras, *, active: jax.Array | None = None, tile_size: int | None = None
) -> int:
    """Number of (tile, gaussian) pairs that rendering needs room for; outside jit only."""
    return int(_count(gaussians, cameras, active, _schedule(tile_size, None)[0]))


def round_capacity(pairs: int, margin: float = 0.0) -> int:
    """`pairs` plus a margin, rounded up to one of eight sizes an octave: few sizes are ever compiled."""
    needed = max(256, int(pairs * (1.0 + margin)) + 1)
    step = 1 << max(0, needed.bit_length() - 4)
    return -(-needed // step) * step


def _schedule(tile_size: int | None, slab: int | None) -> tuple[int, int, bool]:
    """Tile size, slab, and whether blocks are walked splat by splat: what suits the default backend."""
    on_cpu = jax.default_backend() == "cpu"
    return tile_size or (8 if on_cpu else 16), slab or (96 if on_cpu else 2048), on_cpu


def _check(gaussians, cameras, background, active, mean2d_offset) -> None:
    count, views = len(gaussians), len(cameras)
    widths = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": ()}
    for name, width in widths.items():
        shape = (count, *width)
        if getattr(gaussians, name).shape != shape:
            raise ValueError(f"gaussians.{name} has shape {getattr(gaussians, name).shape}; expected {shape}")
    sh = gaussians.sh.shape
    if len(sh) != 3 or sh[0] != count or sh[1] not in (1, 4, 9, 16, 25) or sh[2] != 3:
        raise ValueError(f"gaussians.sh has shape {sh}; expected ({count}, K, 3) with K of 1, 4, 9, 16 or 25")
    if cameras.world_to_camera.shape != (views, 4, 4) or cameras.intrinsics.shape != (views, 3, 3):
        raise ValueError(
            f"cameras have shapes {cameras.world_to_camera.shape} and {cameras.intrinsics.shape}; expected "
            f"[V, 4, 4] and [V, 3, 3] (one camera needs a leading axis too)"
        )
    if jnp.shape(background) not in ((), (3,), (views, 3)):
        raise ValueError(f"background has shape {jnp.shape(background)}; expected (), (3,) or ({views}, 3)")
    if active is not None and active.shape != (count,):
        raise ValueError(f"active has shape {active.shape}; expected ({count},)")
    if mean2d_offset is not None and mean2d_offset.shape != (views, count, 2):
        raise ValueError(f"mean2d_offset has shape {mean2d_offset.shape}; expected ({views}, {count}, 2)")


def _warn(out: Rendering) -> None:
    invalid, pairs = int(out.invalid), int(out.pairs)
    if invalid:
        message = f"ignored {invalid} gaussians with non-finite numbers or a zero quaternion"
        warnings.warn(message, stacklevel=3)
    if pairs > out.capacity:
        warnings.warn(
            f"the image is incomplete: {pairs} tile-gaussian pairs, room for {out.capacity}; raise capacity",
            stacklevel=3,
        )


def _used(gaussians: Gaussians, active: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    valid = usable(gaussians)
    wanted = jnp.ones_like(valid) if active is None else active.astype(bool)
    return valid & wanted, jnp.sum(wanted & ~valid, dtype=jnp.int32)


def _project(gaussians, cameras, used, offset):
    projected = project(replace_unused(gaussians, used), cameras, offset)
    return projected.replace(extents=jnp.where(used[None, :, None], projected.extents, 0.0))


@partial(jax.jit, static_argnums=3)
def _count(gaussians, cameras, active, tile_size):
    grid = TileGrid(len(cameras), cameras.width, cameras.height, tile_size, block=1, slab=1, capacity=1)
    return count_projected_pairs(_project(gaussians, cameras, _used(gaussians, active)[0], None), grid)


@partial(jax.jit, static_argnums=(5, 6, 7, 8, 9))
def _render(gaussians, cameras, background, active, offset, capacity, tile_size, block_size, slab, scan):
    grid = TileGrid(len(cameras), cameras.width, cameras.height, tile_size, block_size, slab, capacity, scan)
    used, invalid = _used(gaussians, active)
    background = jnp.asarray(background, jnp.float32)
    background = jnp.broadcast_to(background, (grid.views, 3)) if background.ndim != 1 else background[None]
    background = background[:, None, None]
    size = (grid.views, grid.height, grid.width)
    if len(gaussians) == 0 or 0 in size:
        blank, none = jnp.zeros(size, jnp.float32), jnp.int32(0)
        rgb = jnp.broadcast_to(background, (*size, 3))
        radii = jnp.zeros((grid.views, len(gaussians), 2), jnp.float32)
        return Rendering(rgb, blank, blank, none, invalid, radii, capacity)

    projected = _project(gaussians, cameras, used, offset)
    bins = build_bins(jax.lax.stop_gradient(projected), grid)
    features = jnp.concatenate([projected.colors, projected.depths[..., None]], axis=-1)
    parts = composite(projected.means, projected.conics, projected.opacities, features, bins, grid)
    light, transmittance, alpha = (_untile(p.reshape(*p.shape[:2], -1), grid) for p in parts)
    radii = jnp.where((bins.run_count > 0).reshape(grid.views, -1, 1), projected.extents, 0.0)
    return Rendering(
        rgb=light[..., :3] + transmittance * background,
        alpha=alpha[..., 0],
        depth=safe_divide(light[..., 3], alpha[..., 0]),
        pairs=bins.pairs,
        invalid=invalid,
        radii=radii,
        capacity=capacity,
    )


def _untile(values: jax.Array, grid: TileGrid) -> jax.Array:
    """[tiles, P, C] to [V, H, W, C]."""
    shape = (grid.views, grid.rows, grid.columns, grid.tile, grid.tile, values.shape[-1])
    image = values.reshape(shape).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(grid.views, grid.rows * grid.tile, grid.columns * grid.tile, -1)
    return image[:, : grid.height, : grid.width]
