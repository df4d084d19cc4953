"""Objects of a run's set are the dataset's, in order."""

import numpy as np

from im3d_jax.data import turntables
from im3d_jax.data.toybox import Toybox
from im3d_jax.images import files


def test_objects_and_captions_are_those_of_the_dataset_in_pieces():
    indices = [3, 0, 7]
    pieces = list(turntables.build_objects("test", indices, chunk=2))
    assert [len(captions) for _, captions in pieces] == [2, 1]
    toybox = Toybox("test")
    assert [c for _, captions in pieces for c in captions] == [toybox.caption(i) for i in indices]
    matrices = np.concatenate([objects.local_from_world for objects, _ in pieces])
    np.testing.assert_array_equal(matrices, np.stack([toybox.sample(i).local_from_world for i in indices]))


def test_box_fraction_is_the_longer_side():
    rgba = np.zeros((20, 20, 4))
    rgba[5:10, 2:12, 3] = 1.0
    assert turntables.box_fraction(rgba) == 0.5
    assert np.isnan(turntables.box_fraction(np.zeros((4, 4, 4))))


def test_pictures_are_rounded_as_in_files():
    """Halves and their neighbours too: of 2.5 / 255, rounding to even would make 2."""
    halves = (np.arange(255, dtype=np.float32) + 0.5) / 255
    near = np.concatenate([halves, np.nextafter(halves, 0), np.nextafter(halves, 1), np.float32([-1, 0, 1, 2])])
    np.testing.assert_array_equal(turntables.to_bytes(near[:, None]), files.to_bytes(near[:, None]))
