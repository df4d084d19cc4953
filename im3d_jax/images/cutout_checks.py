"""Whether a cut-out is what a person meant: figures of its mask, and a line for each that is suspicious."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from im3d_jax.images.alpha import composite
from im3d_jax.images.cutout import connected, plain_colour
from im3d_jax.images.resize import resize


SIDE = 256  # pixels of the longer side at which masks are measured
CHECKED_SIDE = 1024  # pixels of the longer side of `on_checkerboard`
LARGEST_SHARE = 0.95  # of the picture: above, the object is the whole frame

# Of the outline, on the picture's border; the second where all four sides are touched, as in a picture cropped to its
# object, whose outline lies there for up to two fifths.
_CONTACT, _TIGHT_CONTACT = 0.04, 0.45
# A picture in a frame: the object fills so much of its box, and so much of the picture.
_RECTANGLE, _FRAMED = 0.985, 0.5
# Of the filled silhouette: all holes, or those of an object with many. Handles and spokes take less.
_HOLES, _SMALL_HOLES, _MANY_HOLES = 0.3, 0.09, 5
_LEAST_HOLE = 2e-3  # of the filled silhouette
_PARTS, _LARGE_PART = 3, 0.1  # how many, each so large beside the largest
_HAZE = 0.08  # of the object, further inside than soft edges reach
_SOFT_EDGE = 3.0  # pixels, of the picture where it is smaller than `SIDE`
_WIDENING = 0.08  # of the box, by a shadow

# A shadow is the background made darker (channels differ by little), smooth, and fades out at the outline.
_DARKEST, _FAINTEST, _TINT = 0.35, 0.985, 0.06
_SMOOTH, _FADES = 0.05, 0.03  # change a pixel, at most
_RIM = 0.88  # over the background, at its outline
_LEAST_SHADOW, _LEAST_REST = 0.03, 0.25  # of the object
_LEAST_RIM = 0.25  # of the object's outline
_CHECKS = (0.62, 0.78)  # greys of the checkerboard
_CHECK = 16  # pixels of its squares


@dataclasses.dataclass(frozen=True)
class CutOutFigures:
    """What a cut-out looks like; shares are in [0, 1].

    Attributes:
        share: Of the picture that is object.
        contact: Of the object's outline that lies on the picture's border.
        sides: Of the picture that the object touches.
        rectangle: Of the object's box that its filled silhouette covers.
        holes: Of the filled silhouette that is enclosed background.
        hole_count: Of these, those of at least 0.2% of the silhouette.
        parts: Separate regions of at least a tenth of the largest one's size.
        haze: Of the object that is half transparent, soft edges left out.
        shadow: Of the object that looks like a shadow below it.
        widening: By which that region makes the object's box longer, over the box without it.
    """

    share: float
    contact: float
    sides: int
    rectangle: float
    holes: float
    hole_count: int
    parts: int
    haze: float
    shadow: float
    widening: float

    @property
    def whole_frame(self) -> bool:
        """Whether nothing of the picture was cut away that tells an object."""
        return self.share > LARGEST_SHARE

    def warnings(self) -> list[str]:
        """One line for each figure that good cut-outs do not have: the figure, what it may mean, the fix."""
        lines = []
        if self.rectangle >= _RECTANGLE and self.share >= _FRAMED:
            lines.append(
                f"the object is a rectangle that fills {self.share:.0%} of the picture, so it may be a whole "
                "photograph in a frame: crop the frame off and cut the object out (a PNG with alpha)"
            )
        if self.contact >= (_CONTACT if self.sides < 4 else _TIGHT_CONTACT):
            lines.append(
                f"{self.contact:.0%} of the object's outline lie on the picture's border, so it may be cut off, or "
                "background may be taken for it: give a PNG with alpha, or a photograph with room around the object"
            )
        if self.holes >= (_HOLES if self.hole_count < _MANY_HOLES else _SMALL_HOLES):
            lines.append(
                f"{self.holes:.0%} of the object's silhouette are holes, so parts of the background's colour may be "
                "missing: give a PNG with alpha, or a photograph before a background of another colour"
            )
        if self.parts >= _PARTS:
            lines.append(
                f"the object consists of {self.parts} large parts, so it may be several objects: crop the picture to "
                "one of them"
            )
        if self.haze >= _HAZE:
            lines.append(
                f"{self.haze:.0%} of the object are half transparent, so background may be left in it: give a "
                "PNG whose alpha is 1 inside the object and 0 outside"
            )
        if self.widening >= _WIDENING:
            lines.append(
                f"{self.shadow:.0%} of the object look like its shadow, which makes the object's box "
                f"{self.widening:.0%} longer and the object smaller: give a PNG with alpha, or a photograph without "
                "a shadow"
            )
        return lines


def measure_cut_out(
    image: Float[np.ndarray, "height width channels"], rgba: Float[np.ndarray, "height width 4"]
) -> CutOutFigures:
    """Figures of a cut-out.

    Args:
        image: [H, W, 3] or [H, W, 4] in [0, 1], the picture.
        rgba: [H, W, 4], what `cut_out` took from it.
    """
    background = plain_colour(image)
    if background is None:
        before = composite(rgba)
        background = np.ones(3, np.float32)
    else:
        before = image[..., :3]
    height, width = rgba.shape[:2]
    scale = SIDE / max(height, width)  # small pictures too: a shadow's edge is soft in pixels of this size
    size = max(1, round(width * scale)), max(1, round(height * scale))
    alpha = resize(rgba, *size)[..., 3]
    rgb = resize(np.concatenate([before, np.ones_like(before[..., :1])], -1), *size)[..., :3]

    solid = alpha >= 0.5
    if not solid.any():
        return CutOutFigures(float((rgba[..., 3] >= 0.5).mean()), 0.0, 0, 0.0, 0.0, 0, 0, 0.0, 0.0, 0.0)
    filled = np.asarray(ndimage.binary_fill_holes(solid))
    outline = filled & ~np.asarray(ndimage.binary_erosion(filled), bool)
    border = np.ones_like(solid)
    border[1:-1, 1:-1] = False
    regions, count = connected(solid)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    gaps, gap_count = connected(filled & ~solid)
    gap_sizes = np.bincount(gaps.ravel(), minlength=gap_count + 1)[1:]
    visible = alpha > 0.1
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(visible, 1)))[1:-1, 1:-1] > _SOFT_EDGE * max(1.0, scale)
    shadow, widening = _shadow(rgb, solid, outline & ~border, background)
    return CutOutFigures(
        share=float((rgba[..., 3] >= 0.5).mean()),
        contact=float((outline & border).sum() / outline.sum()),
        sides=sum(bool(side.any()) for side in (filled[0], filled[-1], filled[:, 0], filled[:, -1])),
        rectangle=float(filled.sum() / np.prod(_box(filled))),
        holes=float(gap_sizes.sum() / filled.sum()),
        hole_count=int((gap_sizes >= _LEAST_HOLE * filled.sum()).sum()),
        parts=int((sizes >= _LARGE_PART * sizes.max()).sum()),
        haze=float((visible & inside & (alpha < 0.9)).sum() / visible.sum()),
        shadow=shadow,
        widening=widening,
    )


def _box(mask: np.ndarray) -> np.ndarray:
    """Height and width of a mask's box."""
    return np.array([np.ptp(np.nonzero(mask.any(axis))[0]) + 1 for axis in (1, 0)])


def _shadow(
    rgb: Float[np.ndarray, "h w 3"],
    solid: Bool[np.ndarray, "h w"],
    outline: Bool[np.ndarray, "h w"],
    background: Float[np.ndarray, "3"],
) -> tuple[float, float]:
    """Share of the object that looks like a shadow at its foot, and by how much that makes its box longer.

    Args:
        rgb: The picture before its background.
        solid: Its object.
        outline: Outermost pixels of the object that are not on the picture's border.
        background: Colour of the background.
    """
    nothing = 0.0, 0.0
    if background.min() < 0.2:
        return nothing  # a shadow could not be told from it
    ratio = rgb / background
    light, tint = ratio.mean(-1), np.ptp(ratio, axis=-1)
    change = np.asarray(ndimage.gaussian_gradient_magnitude(light, 1.0))
    like = solid & (light > _DARKEST) & (light < _FAINTEST) & (tint < _TINT) & (change < _SMOOTH)
    regions, count = connected(like)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    ends = np.bincount(regions[outline], minlength=count + 1)
    fading = np.bincount(regions[outline & (change < _FADES) & (light > _RIM)], minlength=count + 1)
    chosen = (sizes >= _LEAST_SHADOW * solid.sum()) & (ends >= 8) & (fading >= 0.6 * ends)
    chosen[0] = False
    if ends[chosen].sum() < _LEAST_RIM * outline.sum():
        return nothing  # where an object has the background's colour, a little of its outline fades too
    shade = chosen[regions]
    # Between a shadow and what casts it lie pixels of both.
    rest = np.asarray(ndimage.binary_opening(solid & ~np.asarray(ndimage.binary_dilation(shade, iterations=2), bool)))
    if not shade.any() or rest.sum() < _LEAST_REST * solid.sum():
        return nothing
    if np.nonzero(shade)[0].mean() <= np.nonzero(rest)[0].mean():
        return nothing
    return float(shade.sum() / solid.sum()), float((_box(solid) / (_box(rest) + 4)).max() - 1.0)


def on_checkerboard(rgba: Float[np.ndarray, "height width 4"]) -> Float[np.ndarray, "h w 4"]:
    """A cut-out over a grey checkerboard, reduced to at most `CHECKED_SIDE` pixels: what was taken, and what was not.

    Args:
        rgba: [H, W, 4] straight alpha.

    Returns:
        Opaque [h, w, 4].
    """
    height, width = rgba.shape[:2]
    scale = CHECKED_SIDE / max(height, width)
    if scale < 1.0:
        rgba = resize(rgba, max(1, round(width * scale)), max(1, round(height * scale)))
    rows, columns = np.indices(rgba.shape[:2]) // _CHECK
    board = np.where((rows + columns) % 2, *_CHECKS).astype(np.float32)[..., None]
    shown = composite(rgba, board)
    return np.concatenate([shown, np.ones_like(shown[..., :1])], -1)
