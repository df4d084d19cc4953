"""Binary glTF files (.glb) with gaussians by the Khronos extension KHR_gaussian_splatting.

A point primitive holds POSITION and, as KHR_gaussian_splatting:..., ROTATION (unit quaternion xyzw), SCALE (linear),
OPACITY (0 to 1) and SH_DEGREE_l_COEF_n (degree 0 to 3, coefficients as in PLY files). The writer stores float32 in
glTF's frame (y up), and COLOR_0 for viewers without the extension, which draw points. The reader applies the
translations, rotations and uniform scales of nodes.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from splat.io.files import (
    Malformed,
    Rows,
    base_colors,
    linear_scales,
    logarithms,
    logit,
    sigmoid,
    to_bytes,
    unit_quaternions,
    warn,
)
from splat.io.frames import transform
from splat.io.glb import GlbReader, write_glb


EXTENSION = "KHR_gaussian_splatting"
_COLOR_SPACE = "srgb_rec709_display"
_ROUNDING = 1e-3  # of opacities that a writer computed
_MOST_NODES = 10_000
# A row takes at least 32 bytes; nodes may repeat a mesh, but not until copies fill the memory.
_FEWEST_BYTES_PER_ROW = 8


def encode_glb(gaussians: Rows) -> bytes:
    """Encodes a whole file.

    Args:
        gaussians: In glTF's frame; at least one, finite numbers, SH degree 0 to 3.

    Returns:
        The file's bytes.

    Raises:
        ValueError: A .glb file cannot hold so many gaussians (4 GiB).
    """
    opacity = sigmoid(gaussians.opacity_logits)
    colors = np.concatenate([_linear(base_colors(gaussians.sh)), opacity[:, None]], axis=1)
    attributes = {
        "POSITION": np.asarray(gaussians.means, "<f4"),
        "COLOR_0": to_bytes(255.0 * colors),
        f"{EXTENSION}:ROTATION": np.roll(unit_quaternions(gaussians.quats), -1, axis=1).astype("<f4"),
        f"{EXTENSION}:SCALE": linear_scales(gaussians.log_scales).astype("<f4"),
        f"{EXTENSION}:OPACITY": opacity.astype("<f4"),
    }
    for name, index in _coefficients(gaussians.sh_degree):
        attributes[name] = np.asarray(gaussians.sh[:, index], "<f4")
    settings = {
        "kernel": "ellipse",
        "colorSpace": _COLOR_SPACE,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"mode": 0, "extensions": {EXTENSION: settings}}
    document = {
        "asset": {"version": "2.0", "generator": "splat"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
    }
    return write_glb(document, primitive, attributes)


def decode_glb(data: bytes) -> Rows:
    """Decodes all gaussians of a file's default scene.

    Args:
        data: The file's bytes.

    Returns:
        The gaussians in glTF's frame.

    Raises:
        Malformed: No binary glTF file, no gaussians in its scene, or a feature that is not supported.
    """
    reader = GlbReader(data)
    reader.refuse_required((EXTENSION,))
    most_rows = len(data) // _FEWEST_BYTES_PER_ROW
    meshes: dict[int, Rows | None] = {}
    parts, rows = [], 0
    for index, matrix in _instances(reader):
        if index not in meshes:
            meshes[index] = _mesh(reader, index, most_rows)
        mesh = meshes[index]
        if mesh is not None:
            rows += len(mesh)
            if rows > most_rows:
                raise Malformed(f"shows its gaussians too often: {rows} and more for {len(data)} bytes")
            parts.append(transform(mesh, *_decompose(matrix)))
    if not parts:
        raise Malformed(f"holds no primitive with {EXTENSION} in its scene")
    return _concatenate(parts)


def _mesh(reader: GlbReader, index: int, most_rows: int) -> Rows | None:
    """All gaussians of a mesh, None if it has no primitive of them."""
    parts, rows = [], 0
    for primitive in reader.objects(reader.item("meshes", index), "primitives"):
        extensions = reader.mapping(primitive, "extensions")
        if EXTENSION in extensions:
            parts.append(_primitive(reader, primitive, reader.mapping(extensions, EXTENSION)))
            rows += len(parts[-1])
            if rows > most_rows:
                raise Malformed(f"uses its attributes too often: {rows} gaussians and more")
    return _concatenate(parts) if parts else None


def _concatenate(parts: list[Rows]) -> Rows:
    degree = max(part.sh.shape[1] for part in parts)
    return Rows(
        means=np.concatenate([part.means for part in parts]),
        quats=np.concatenate([part.quats for part in parts]),
        log_scales=np.concatenate([part.log_scales for part in parts]),
        opacity_logits=np.concatenate([part.opacity_logits for part in parts]),
        sh=np.concatenate([np.pad(p.sh, ((0, 0), (0, degree - p.sh.shape[1]), (0, 0))) for p in parts]),
    )


def _primitive(reader: GlbReader, primitive: dict[str, Any], settings: dict[str, Any]) -> Rows:
    kernel, space = settings.get("kernel"), settings.get("colorSpace")
    if kernel != "ellipse":
        raise Malformed(f"has gaussians of kernel {str(kernel)[:40]!r}; only 'ellipse' is read")
    if settings.get("projection", "perspective") != "perspective":
        raise Malformed(f"has gaussians of projection {str(settings['projection'])[:40]!r}; only 'perspective' is read")
    if reader.mapping(settings, "extensions"):
        names = ", ".join(settings["extensions"])[:80]
        raise Malformed(f"has gaussians stored by {names!r}, which is not read")
    if space != _COLOR_SPACE:
        warn(f"colours are declared as {str(space)[:40]!r} and read as {_COLOR_SPACE!r} without conversion")
    attributes = reader.mapping(primitive, "attributes")
    count = None

    def take(name: str, kind: str, types: str) -> Float[np.ndarray, "N width"]:
        nonlocal count
        values = reader.accessor(attributes.get(name), name, kind, types)
        count = len(values) if count is None else count
        if len(values) != count:
            raise Malformed(f"has {count} positions, but {len(values)} values of {name}")
        if not np.isfinite(values).all():
            raise Malformed(f"holds a number in {name} that is not finite")
        return values

    means = take("POSITION", "VEC3", "f")
    quats = take(f"{EXTENSION}:ROTATION", "VEC4", "fbh")
    scales = take(f"{EXTENSION}:SCALE", "VEC3", "fBH")
    if scales.size and scales.min() < 0:
        raise Malformed(
            f"holds the scale {scales.min():.3g}, expected 0 or more (SCALE is linear; logarithms need exp first)"
        )
    opacity = take(f"{EXTENSION}:OPACITY", "SCALAR", "fBH")
    beyond = opacity[np.abs(opacity - 0.5) > 0.5 + _ROUNDING]
    if beyond.size:
        raise Malformed(f"holds the opacity {beyond[0]:.3g}, expected 0 to 1 (logits need the sigmoid first)")
    degree = 0
    while f"{EXTENSION}:SH_DEGREE_{degree + 1}_COEF_0" in attributes and degree < 3:
        degree += 1
    return Rows(
        means=means,
        quats=np.roll(unit_quaternions(quats), 1, axis=1),
        log_scales=logarithms(scales),
        opacity_logits=logit(opacity[:, 0], 2.0**-24),
        sh=np.stack([take(name, "VEC3", "f") for name, _ in _coefficients(degree)], axis=1),
    )


def _coefficients(degree: int) -> list[tuple[str, int]]:
    """Attribute names of the coefficients up to `degree`, and their indices in `sh`."""
    return [
        (f"{EXTENSION}:SH_DEGREE_{band}_COEF_{order}", band * band + order)
        for band in range(degree + 1)
        for order in range(2 * band + 1)
    ]


def _linear(colors: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Linear colours, as in COLOR_0, of sRGB colours (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _instances(reader: GlbReader) -> list[tuple[int, Float[np.ndarray, "4 4"]]]:
    """(mesh, world matrix [4, 4]) of every node in the scene that shows a mesh."""
    scenes = reader.objects(reader.document, "scenes")
    if scenes:
        scene = reader.item("scenes", reader.document.get("scene", 0))
        roots = reader.indices(scene, "nodes")
    else:
        nodes = reader.objects(reader.document, "nodes")
        children = {child for node in nodes for child in reader.indices(node, "children")}
        roots = [i for i in range(len(nodes)) if i not in children]
    pending, seen, found = [(root, np.eye(4)) for root in reversed(roots)], set(), []
    while pending:
        index, parent = pending.pop()
        if index in seen or len(seen) >= _MOST_NODES:
            raise Malformed(f"has more than {_MOST_NODES} nodes, or one of them twice in its tree")
        seen.add(index)
        node = reader.item("nodes", index)
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = parent @ _local_matrix(reader, node)
        if "mesh" in node:
            reader.item("meshes", node["mesh"])
            found.append((node["mesh"], matrix))
        pending += [(child, matrix) for child in reversed(reader.indices(node, "children"))]
    return found


def _local_matrix(reader: GlbReader, node: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    if "matrix" in node:
        return reader.numbers(node, "matrix", 16, ()).reshape(4, 4).T
    x, y, z, w = reader.numbers(node, "rotation", 4, (0, 0, 0, 1))
    matrix = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x, y, z, w = np.array([x, y, z, w]) / np.linalg.norm([x, y, z, w])
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, :3] *= reader.numbers(node, "scale", 3, (1, 1, 1))[None]
    matrix[:3, 3] = reader.numbers(node, "translation", 3, (0, 0, 0))
    return matrix


def _decompose(matrix: Float[np.ndarray, "4 4"]) -> tuple[Float[np.ndarray, "3 3"], float, list[float]]:
    """Rotation, scale and translation of a world matrix."""
    linear = matrix[:3, :3]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = float(np.sqrt((linear**2).sum() / 3))
        rotation = linear / scale
        rigid = np.isfinite(matrix).all() and np.isfinite(rotation).all() and 1e-30 < scale < 1e30
        rigid = rigid and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3
        rigid = rigid and np.linalg.det(rotation) > 0
    if not rigid:
        raise Malformed("has a node that mirrors, shears or scales axes differently, not by one factor")
    # The nearest exact rotation keeps float32 rounding out of the quaternions.
    left, _, right = np.linalg.svd(rotation)
    return left @ right, scale, matrix[:3, 3].tolist()
