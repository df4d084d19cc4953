"""Options of the rasterizer, and their defaults for each backend."""

import dataclasses

import jax


# (tile_size, slab, unroll) that measured fastest; a CPU keeps a slab in its cache, a GPU wants few large kernels.
_DEFAULTS = {"cpu": (8, 96, 1), "gpu": (8, 8192, 8)}
# Splats are evaluated a whole block at a time by matrix products, which suit a TPU.
_OTHER_BACKENDS = (16, 2048, 0)


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """Outputs, filters and tiling of `splat.render`; hashable, thus static under jit.

    `exact_tiles` and the sizes change time and memory, and the image only to rounding.

    Attributes:
        antialiased: Multiply each opacity by sqrt(det / det blurred), which compensates the low-pass of gaussians
            smaller than a pixel (the 2D filter of Mip-Splatting, Yu et al. 2024, eq. 9).
        exact_tiles: List only the tiles that the ellipse alpha >= 1/255 touches, not all under its bounding box:
            fewer pairs for some more work before the sort.
        median_depth: Fill `Rendering.median_depth`.
        normals: Fill `Rendering.normals` from each gaussian's shortest axis, turned towards the camera.
        tile_size: Edge of a square tile in pixels, at least 1. None: 8 on CPUs and GPUs, 16 elsewhere.
        block_size: Pairs in one block of a tile's list, at least 1.
        slab: Blocks evaluated together, at least 1. None: 96 on CPUs, 8192 on GPUs, 2048 elsewhere.
        unroll: Splats of a block that one step evaluates, at least 1; 0 evaluates a whole block by matrix products.
            None: 1 on CPUs, 8 on GPUs, 0 elsewhere.

    Raises:
        ValueError: A size is out of range.
    """

    antialiased: bool = False
    exact_tiles: bool = False
    median_depth: bool = False
    normals: bool = False
    tile_size: int | None = None
    block_size: int = 32
    slab: int | None = None
    unroll: int | None = None

    def __post_init__(self):
        for name, least in {"tile_size": 1, "block_size": 1, "slab": 1, "unroll": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"RenderOptions got {name}={value}; expected an integer of at least {least}")


@dataclasses.dataclass(frozen=True)
class ResolvedOptions(RenderOptions):
    """`RenderOptions` with a number for every size, as `resolve` gives them."""

    tile_size: int = _OTHER_BACKENDS[0]
    slab: int = _OTHER_BACKENDS[1]
    unroll: int = _OTHER_BACKENDS[2]


def resolve(options: RenderOptions) -> ResolvedOptions:
    """Replaces None by the default of `jax.default_backend()`.

    Args:
        options: With or without sizes.

    Returns:
        The options with a number for every size.
    """
    defaults = _DEFAULTS.get(jax.default_backend(), _OTHER_BACKENDS)
    values = dataclasses.asdict(options)
    for name, default in zip(("tile_size", "slab", "unroll"), defaults, strict=True):
        values[name] = default if values[name] is None else values[name]
    return ResolvedOptions(**values)
