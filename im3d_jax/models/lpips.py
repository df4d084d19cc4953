"""LPIPS (Zhang et al. 2018) on VGG16: a function of an explicit parameter dictionary, and its files.

No weights ship with the project. `load` reads them from files that the user names: safetensors or npz in the
layouts of torchvision (`features.N.weight`) and of the `lpips` package (`net.sliceK.N.weight`,
`linK.model.1.weight`), or HDF5 as lpips-j has it (`convB_L/weight`, `linK`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from im3d_jax.archives import read_arrays
from im3d_jax.models import perceptual


# Convolutions of each level: their numbers in torchvision's `features`, and the width. A 2x2 max-pool stands
# between levels; a level's output is taken after its last ReLU (relu1_2, relu2_2, relu3_3, relu4_3, relu5_3).
LEVELS = (
    ((0, 2), 64),
    ((5, 7), 128),
    ((10, 12, 14), 256),
    ((17, 19, 21), 512),
    ((24, 26, 28), 512),
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What numpy can hold of safetensors' types.
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")

_MOST_BYTES = 1 << 29  # of an archive's arrays; those of LPIPS have 59 MB in float32

Params = dict[str, jax.Array]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes: `features.N.weight` in HWIO, `features.N.bias`, `linK.weight` as [c]."""
    shapes: dict[str, tuple[int, ...]] = {}
    width_in = 3
    for level, (convolutions, width) in enumerate(LEVELS):
        for number in convolutions:
            shapes[f"features.{number}.weight"] = (3, 3, width_in, width)
            shapes[f"features.{number}.bias"] = (width,)
            width_in = width
        shapes[f"lin{level}.weight"] = (width,)
    return shapes


def vgg_features(params: Params, images: jax.Array, dtype: DTypeLike = jnp.float32) -> list[jax.Array]:
    """The five VGG16 feature maps that LPIPS compares.

    Args:
        params: Dictionary as `load` returns it.
        images: [B, H, W, 3] in [0, 1], sides at least 16.
        dtype: Type of the convolutions, for instance bfloat16 on an accelerator.

    Returns:
        Maps [B, H / 2**k, W / 2**k, c] for k = 0..4 with c = 64, 128, 256, 512, 512, of type `dtype`.
    """
    mean = jnp.asarray(IMAGENET_MEAN, jnp.float32)[None, None, None]
    std = jnp.asarray(IMAGENET_STD, jnp.float32)[None, None, None]
    x = ((images.astype(jnp.float32) - mean) / std).astype(dtype)
    maps = []
    for level, (convolutions, _) in enumerate(LEVELS):
        if level > 0:
            x = _max_pool(x)
        for number in convolutions:
            kernel = params[f"features.{number}.weight"].astype(dtype)
            bias = params[f"features.{number}.bias"].astype(dtype)[None, None, None]
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        maps.append(x)
    return maps


def _max_pool(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def head_weights(params: Params) -> tuple[jax.Array, ...]:
    """The channel weights of the five levels."""
    return tuple(params[f"lin{level}.weight"] for level in range(len(LEVELS)))


def lpips(params: Params, a: jax.Array, b: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """LPIPS distance of image pairs.

    Args:
        params: Dictionary as `load` returns it.
        a: Images [B, H, W, 3] in [0, 1] (not [-1, 1]).
        b: Images of the same shape.
        dtype: Type of the convolutions; normalisation and sums stay in float32.

    Returns:
        Distances [B]; exactly 0 for equal images.
    """
    return perceptual.distance(vgg_features(params, a, dtype), vgg_features(params, b, dtype), head_weights(params))


def _float32_features(params: Params, images: jax.Array) -> list[jax.Array]:
    return vgg_features(params, images[..., :3], jnp.float32)


def _bfloat16_features(params: Params, images: jax.Array) -> list[jax.Array]:
    return vgg_features(params, images[..., :3], jnp.bfloat16)


def as_perceptual(params: Params, half: bool = False) -> perceptual.Perceptual:
    """LPIPS as the fitting loop takes it: features of (colour on white, alpha) images, alpha left aside."""
    function = _bfloat16_features if half else _float32_features
    return perceptual.Perceptual(jax.tree_util.Partial(function, params), head_weights(params))


def load(*paths: str | Path) -> Params:
    """Reads LPIPS parameters from one file, or from several that together hold backbone and heads.

    Args:
        *paths: `.safetensors`, `.npz`, `.h5` or `.hdf5` files in a layout named at the top of this module.

    Returns:
        Float32 arrays under the names of `expected_shapes`.

    Raises:
        ValueError: A file has another type or is damaged, or a parameter is missing or has another shape.
    """
    found: dict[str, np.ndarray] = {}
    for path in map(Path, paths):
        for name, array in _read(path).items():
            renamed = _rename(name)
            if renamed is not None:
                found[renamed] = _arrange(renamed, np.asarray(array, np.float32), path.suffix)
    params = {}
    where = ", ".join(str(path) for path in paths)
    for name, shape in expected_shapes().items():
        if name not in found:
            raise ValueError(
                f"no {name} in {where}; expected the VGG16 backbone and the five LPIPS heads: name the files of both"
            )
        if found[name].shape != shape:
            raise ValueError(f"{name} in {where} has shape {found[name].shape}; expected {shape}: is this file VGG16?")
        params[name] = jnp.asarray(found[name])
    return params


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open
        from safetensors.numpy import load_file

        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                if (dtype := file.get_slice(name).get_dtype()) not in _DTYPES:
                    raise ValueError(f"{path} has {name} in dtype {dtype}; expected one of {', '.join(_DTYPES)}")
        return load_file(path)
    if path.suffix == ".npz":
        try:
            return read_arrays(path, _rename, most=_MOST_BYTES)
        except ValueError as error:
            raise ValueError(f"{path} is not a whole .npz archive ({error}): download or write it again") from error
    if path.suffix in (".h5", ".hdf5"):
        import h5py

        arrays: dict[str, np.ndarray] = {}

        def keep(name: str, node: object) -> None:
            if isinstance(node, h5py.Dataset) and _rename(name):
                # A few bytes of a file can declare any number of them.
                if node.nbytes > _MOST_BYTES:
                    raise ValueError(f"{path} declares {node.nbytes / 1e9:.3g} GB of {name}: download it again")
                arrays[name] = node[()]

        try:
            with h5py.File(path, "r") as file:
                file.visititems(keep)
        except (OSError, RuntimeError) as error:  # as HDF5 reports damage, at opening or at reading
            raise ValueError(f"{path} is not a whole HDF5 file ({error}): download or write it again") from error
        return arrays
    raise ValueError(
        f"{path} is not a .safetensors, .npz or .h5 file; pickled .pth files are not read: convert it with "
        "safetensors.torch.save_file(torch.load(path, weights_only=True), 'vgg16.safetensors')"
    )


def _rename(name: str) -> str | None:
    """Our name of a stored parameter; None for those that LPIPS does not use (the classifier's)."""
    torch_like = re.fullmatch(r"(?:net\.slice\d+|features|net\.features)\.(\d+)\.(weight|bias)", name)
    if torch_like:
        return f"features.{torch_like[1]}.{torch_like[2]}"
    block = re.fullmatch(r"conv(\d)_(\d)/(weight|bias)", name)
    if block and int(block[1]) <= len(LEVELS) and int(block[2]) <= len(LEVELS[int(block[1]) - 1][0]):
        number = LEVELS[int(block[1]) - 1][0][int(block[2]) - 1]
        return f"features.{number}.{block[3]}"
    head = re.fullmatch(r"lin(\d)(?:\.model\.1\.weight|\.weight)?", name)
    return f"lin{head[1]}.weight" if head else None


def _arrange(name: str, array: np.ndarray, suffix: str) -> np.ndarray:
    if name.startswith("lin"):
        return array.reshape(-1)
    # HDF5 files of lpips-j hold HWIO already; PyTorch holds OIHW.
    if array.ndim == 4 and suffix not in (".h5", ".hdf5"):
        return array.transpose(2, 3, 1, 0)
    return array
