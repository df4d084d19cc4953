"""The pictures of a capture as one array: their memory is known before it is taken, smaller ones are padded.

A capture may hold pictures of several sizes and pictures with masks. All become [V, H, W, 4] of the widest and the
highest one; `valid` tells the pixels of a picture that count from padding and from what its mask leaves out.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from im3d_jax.data.pictures import find_picture, picture_size, read_mask, read_raw
from im3d_jax.errors import CaptureError


# The views in host memory and as the fit's targets (16 bytes a pixel each), and which pixels are valid.
BYTES_A_PIXEL = 36
# Share of the available memory that a capture may take.
SHARE = 0.9
# Bytes that any capture may take. Beyond them a picture counts once, however many frames name it, and its file has a
# byte for so many pixels: deflate packs thousands of pixels of one colour into a byte, but no picture of something.
FREE, MOST_PIXELS_A_BYTE = 900_000_000, 300
_MASKS = "masks"


@dataclasses.dataclass(frozen=True)
class ViewFile:
    """Files of one view.

    Attributes:
        picture: Of the view.
        name: As the camera file has it.
        mask: Of the picture; None for none.
        inverted: Whether the mask's pixels above 0 are those that do not count (instant-ngp's dynamic masks).
    """

    picture: pathlib.Path
    name: str
    mask: pathlib.Path | None = None
    inverted: bool = False


def sizes_of(views: Sequence[ViewFile], source: pathlib.Path, downscale: int) -> list[tuple[int, int]]:
    """Width and height of every picture by its header; the memory of all is checked.

    Args:
        views: Of a capture.
        source: The camera file or model, for messages.
        downscale: By which the pictures will be read.

    Raises:
        ImageError: A file is no picture, or too large.
        CaptureError: A picture is smaller than `downscale`, or all together need more memory than there is.
    """
    # One picture may be named by many frames.
    headers = {view.picture: (0, 0) for view in views}
    for file in headers:
        headers[file] = picture_size(file, downscale)
        if min(headers[file]) < downscale:
            width, height = headers[file]
            raise CaptureError(
                f"{file}: {width}x{height} pixels are too few for downscale={downscale}; give a smaller factor"
            )
    sizes = [headers[view.picture] for view in views]
    _check_memory(sizes, headers, source, downscale)
    return sizes


def _check_memory(
    sizes: Sequence[tuple[int, int]], pictures: Collection[pathlib.Path], source: pathlib.Path, downscale: int
) -> None:
    """Refuses what exceeds the available memory, and what small files or few of them alone declare."""
    available = available_memory()
    stored = sum(os.path.getsize(picture) for picture in pictures)
    width, height = max(width for width, _ in sizes), max(height for _, height in sizes)
    # Beside the views, the largest picture as it is decoded, and a strip of it.
    decoding = 4 * width * height + 40 * min(width * height, 4_000_000)

    def needed(factor: int, count: int = len(sizes)) -> int:
        return BYTES_A_PIXEL * count * (width // factor) * (height // factor) + decoding

    def room(factor: int) -> int:
        most = min(MOST_PIXELS_A_BYTE * stored, len(pictures) * (width // factor) * (height // factor))
        most = max(FREE, BYTES_A_PIXEL * most + decoding)
        return most if available is None else min(most, int(SHARE * available))

    if needed(downscale) <= room(downscale):
        return
    factors = range(downscale + 1, min(width, height))
    fits = next((factor for factor in factors if needed(factor) <= room(factor)), None)
    advice = f"--downscale={fits} fits" if fits else "no --downscale fits"
    one = BYTES_A_PIXEL * (width // downscale) * (height // downscale)
    count = (room(downscale) - needed(downscale, 0)) // one
    why = f"is the most for {stored / 1e6:.3g} MB of files"
    if available is not None and room(downscale) == int(SHARE * available):
        why = "can be had"
    raise CaptureError(
        f"{source}: {len(sizes)} pictures of {width // downscale}x{height // downscale} pixels take "
        f"{needed(downscale) / 1e9:.1f} GB of memory, {room(downscale) / 1e9:.1f} GB {why}: {advice}, or at most "
        f"{max(count, 0)} of the pictures"
    )


def available_memory() -> int | None:
    """Bytes that this process can still take, by the system and by the limit of its container; None if unknown."""
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    for folder, most, used, cached in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        group = pathlib.Path(folder)
        try:
            counters = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The usage counts files that the system caches and gives up when memory is needed.
            taken = int((group / used).read_text()) - int(counters.get(cached, 0))
            found.append(int((group / most).read_text()) - taken)
        # No such group, or "max" for no limit.
        except (OSError, ValueError):
            continue
    return max(0, min(found)) if found else None


def read_views(
    views: Sequence[ViewFile], sizes: Sequence[tuple[int, int]], downscale: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads pictures and masks.

    Args:
        views: V views of a capture.
        sizes: From `sizes_of`.
        downscale: Mean over so many pixels squared; a remainder of rows or columns is cut off.

    Returns:
        float32 [V, H, W, 4] straight alpha, zero where not valid; and [V, H, W] bool of the pixels that count, None if
        all do.

    Raises:
        ImageError: A file is damaged, or a mask has another size than its picture.
    """
    small = [(width // downscale, height // downscale) for width, height in sizes]
    width, height = max(size[0] for size in small), max(size[1] for size in small)
    uneven = any(size != (width, height) for size in small) or any(view.mask for view in views)
    images = np.zeros((len(views), height, width, 4), np.float32)
    valid = np.zeros((len(views), height, width), bool) if uneven else None
    # Frames may share pictures and masks; each is decoded once.
    pictures: dict[pathlib.Path, int] = {}
    masks: dict[tuple[pathlib.Path, bool, tuple[int, int]], int] = {}
    for place, (view, (columns, rows)) in enumerate(zip(views, small, strict=True)):
        first = pictures.setdefault(view.picture, place)
        if first == place:
            read_raw(view.picture, downscale, images[place, :rows, :columns])
        else:
            images[place] = images[first]
    if valid is not None:
        for place, (view, size, (columns, rows)) in enumerate(zip(views, sizes, small, strict=True)):
            if view.mask is None:
                valid[place, :rows, :columns] = True
            elif (first := masks.setdefault((view.mask, view.inverted, size), place)) == place:
                valid[place, :rows, :columns] = read_mask(view.mask, size, downscale, view.inverted)
            else:
                valid[place] = valid[first]
            images[place][~valid[place]] = 0.0
    return images, valid


def inside_circle(size: tuple[int, int], centre: tuple[float, float], radius: float, downscale: int) -> np.ndarray:
    """Which pixels of a picture lie in a circle.

    Args:
        size: Width and height of the picture.
        centre: Of the circle in pixels, whose first one has its centre at (0.5, 0.5).
        radius: In pixels.
        downscale: A pixel counts if the centres of all pixels of its block do.

    Returns:
        [h, w] bool.
    """
    farthest = []
    for side, middle in zip(size, centre, strict=True):
        first = np.arange(side // downscale) * downscale + 0.5 - middle
        farthest.append(np.maximum(np.abs(first), np.abs(first + (downscale - 1))))
    return np.hypot(farthest[0][None, :], farthest[1][:, None]) <= radius


def with_mask(picture: pathlib.Path, name: str, folders: Sequence[pathlib.Path], *, nested: bool = False) -> ViewFile:
    """The view of a picture with the mask that lies beside it, if one does.

    Looked for are `masks/x.jpg.png` (COLMAP), `masks/x.png` and masks with a picture's other suffixes, and
    `dynamic_mask_x.png` beside the picture (instant-ngp).

    Args:
        picture: The file.
        name: As the camera file has it.
        folders: That may hold a folder `masks`.
        nested: Whether names begin with a folder of pictures, which masks are named without.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = ["/".join(parts)] + (["/".join(parts[1:])] if nested and len(parts) > 1 else [])
    for folder in folders:
        place = folder / _MASKS
        if not os.path.isdir(place):
            continue
        for tail in tails:
            # Pictures are found whatever the case of their suffix.
            named = picture.suffix and tail.lower().endswith(picture.suffix.lower())
            stem = tail[: -len(picture.suffix)] if named else tail
            found = find_picture(place, stem + picture.suffix + ".png") or find_picture(place, stem)
            if found is not None:
                return ViewFile(picture, name, found)
    dynamic = picture.with_name(f"dynamic_mask_{picture.stem}.png")
    if os.path.isfile(dynamic):
        return ViewFile(picture, name, dynamic, inverted=True)
    return ViewFile(picture, name)
