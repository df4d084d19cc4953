"""What is wrong with a cut-out is told, and nothing is told of good ones."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from im3d_jax.images.alpha import composite
from im3d_jax.images.cutout import cut_out
from im3d_jax.images.cutout_checks import CHECKED_SIDE, measure_cut_out, on_checkerboard
from tests.images.test_prepare import disc


SIDE = 128
Y, X = np.mgrid[:SIDE, :SIDE]


def figures(picture):
    picture = np.asarray(picture, np.float32)
    return measure_cut_out(picture, cut_out(picture))


def warned(picture):
    """The only warning of a picture."""
    (line,) = figures(picture).warnings()
    assert "\n" not in line
    return line


def mug():
    """A blue ball with a ring at its side."""
    picture = disc(SIDE, 26.0, (52.0, 66.0), (0.2, 0.3, 0.8))
    radius = np.hypot(X - 82, Y - 66)
    picture[(radius < 18) & (radius > 11), :] = 0.2, 0.3, 0.8, 1.0
    return picture


def tight(picture):
    rows, columns = (np.nonzero((picture[..., 3] > 0.5).any(axis))[0] for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def shadowed(background):
    """A red ball on a floor of the background's colour, with a soft shadow at its foot."""
    depth = ((X - 76.0) / 44) ** 2 + ((Y - 92.0) / 9) ** 2 < 1
    light = 1.0 - 0.45 * ndimage.gaussian_filter(depth.astype(np.float32), 3.0)
    ball = disc(SIDE, 26.0, (60.0, 66.0), (0.8, 0.15, 0.1))
    return composite(ball, light[..., None] * np.asarray(background, np.float32))


@pytest.mark.parametrize("background", [None, 1.0, (0.8, 0.8, 0.8), (0.1, 0.1, 0.1), (0.6, 0.75, 0.95)])
def test_good_cut_outs(background):
    picture = mug() if background is None else composite(mug(), np.asarray(background, np.float32))
    found = figures(picture)
    assert found.warnings() == [] and not found.whole_frame
    assert found.hole_count == 1 and 0.02 < found.holes < 0.2 and found.parts == 1 and found.sides == 0
    assert found.share == pytest.approx((mug()[..., 3] >= 0.5).mean(), rel=0.02)


def test_a_picture_cropped_to_its_object_is_no_fault():
    assert figures(tight(mug())).warnings() == []
    assert figures(tight(mug())).sides == 4


@pytest.mark.parametrize("cut", [np.s_[:80], np.s_[50:], np.s_[:, :90], np.s_[:, 40:]])
@pytest.mark.parametrize("background", [None, 1.0])
def test_an_object_that_is_cut_off(cut, background):
    picture = mug()[cut]
    line = warned(picture if background is None else composite(picture, background))
    assert "of the object's outline lie on the picture's border" in line and "give a PNG with alpha" in line


def test_a_floor_that_is_taken_for_the_object():
    picture = composite(mug(), 1.0)
    picture[100:] = np.linspace(0.75, 0.6, 28)[:, None, None] * np.array([0.9, 0.8, 0.7])
    assert "outline lie on the picture's border" in warned(picture)


def test_a_photograph_in_a_frame():
    photograph = np.random.default_rng(0).uniform(0.1, 0.8, (120, 110, 3))
    line = warned(np.pad(photograph, ((4, 4), (4, 4), (0, 0)), constant_values=1.0))
    assert line.startswith("the object is a rectangle that fills 87% of the picture")


def test_a_whole_frame():
    picture = np.ones((SIDE, SIDE, 4), np.float32)
    picture[np.hypot(X - 64, Y - 64) > 88, 3] = 0.0  # rounded corners
    found = figures(picture)
    assert found.whole_frame and found.share > 0.95


def test_holes():
    picture = disc(SIDE, 45.0, (64.0, 64.0), (0.7, 0.5, 0.2))
    for angle in np.arange(7) * 2 * np.pi / 7:
        picture[np.hypot(X - 64 - 28 * np.cos(angle), Y - 64 - 28 * np.sin(angle)) < 7, 3] = 0.0
    assert figures(picture).hole_count == 7
    assert "of the object's silhouette are holes" in warned(picture)
    picture = disc(SIDE, 45.0, (64.0, 64.0), (0.7, 0.5, 0.2))
    picture[np.hypot(X - 64, Y - 64) < 30, 3] = 0.0
    assert warned(picture).startswith("44% of the object's silhouette are holes")


def test_several_objects():
    many = np.concatenate([tight(mug())] * 3, axis=1)
    apart = np.pad(many, ((20, 20), (20, 20), (0, 0)))
    apart[:, 20 + 77 : 20 + 79] = 0.0
    apart[:, 20 + 154 : 20 + 156] = 0.0
    assert "the object consists of 3 large parts" in warned(apart)
    two = np.concatenate([mug(), mug()], axis=1)
    assert figures(two).parts == 2 and figures(two).warnings() == []


def test_haze():
    picture = mug()
    picture[60:75, 30:70, 3] *= 0.5
    assert "of the object are half transparent" in warned(picture)


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.8, 0.78, 0.74)])
def test_a_shadow(background):
    found = figures(shadowed(background))
    assert found.widening > 0.3 and 0.1 < found.shadow < 0.6
    assert "look like its shadow" in warned(shadowed(background))


def test_a_pale_table_is_no_shadow():
    picture = disc(SIDE, 20.0, (60.0, 50.0), (0.8, 0.15, 0.1))
    picture[66:100, 24:100] = 0.84, 0.84, 0.83, 1.0
    picture[66:72, 24:100] = 0.7, 0.7, 0.69, 1.0
    assert figures(composite(picture, 1.0)).widening == 0.0


def test_the_size_of_the_picture_changes_little():
    large = np.kron(shadowed((1.0, 1.0, 1.0)), np.ones((5, 5, 1)))
    found, small = (dataclasses.asdict(figures(picture)) for picture in (large, shadowed((1.0, 1.0, 1.0))))
    for name in ("share", "contact", "sides", "parts", "holes"):
        assert found[name] == pytest.approx(small[name], abs=0.01), name
    assert found["widening"] > 0.3


def test_the_checkerboard_shows_what_was_taken():
    shown = on_checkerboard(mug())
    assert shown.shape == (SIDE, SIDE, 4) and (shown[..., 3] == 1.0).all()
    np.testing.assert_allclose(shown[66, 52, :3], (0.2, 0.3, 0.8), atol=1e-6)
    np.testing.assert_allclose(shown[66, 82, :3], shown[66, 82, 0], atol=1e-6)  # the hole
    assert len(np.unique(shown[:32, :32, :3])) == 2 and shown[0, 0, 0] != shown[0, 16, 0] == shown[16, 0, 0]
    wide = np.zeros((30, 3000, 4), np.float32)
    assert on_checkerboard(wide).shape == (10, CHECKED_SIDE, 4)
