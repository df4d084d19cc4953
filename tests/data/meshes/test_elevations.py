"""Elevations: kinds, ranges, and that they depend on seed and object alone."""

import numpy as np
import pytest

from im3d_jax.data.meshes.elevations import Elevations
from im3d_jax.errors import InputError


def test_fixed():
    rule = Elevations.parse("fixed:15")
    assert str(rule) == "fixed:15"
    np.testing.assert_array_equal(rule.draw(3, "mug", 16), np.full(16, 15.0))


def test_per_object():
    rule = Elevations.parse("per_object:-10:45")
    assert str(rule) == "per_object:-10:45"
    drawn = np.stack([rule.draw(0, f"object {i}", 16) for i in range(400)])
    assert (np.ptp(drawn, 1) == 0).all()
    assert drawn.min() >= -10 and drawn.max() <= 45
    # Uniform: mean and deviation within four standard errors.
    assert abs(drawn[:, 0].mean() - 17.5) < 4 * 55 / 12**0.5 / 20
    assert abs(drawn[:, 0].std() - 55 / 12**0.5) < 2.0
    np.testing.assert_array_equal(rule.draw(0, "object 7", 16), drawn[7])
    assert rule.draw(1, "object 7", 16)[0] != drawn[7, 0]


def test_dynamic():
    rule = Elevations.parse("dynamic:0:45")
    drawn = np.stack([rule.draw(0, f"object {i}", 84) for i in range(200)])
    assert drawn.min() >= 0.0 and drawn.max() <= 45.0
    assert (np.ptp(drawn, 1) > 0.5).mean() > 0.9, "curves, not lines"
    # Smooth and closed: from frame to frame, the last to the first included, at most what four waves allow.
    steps = np.abs(np.diff(drawn, axis=1, append=drawn[:, :1])).max(1)
    assert (steps <= np.ptp(drawn, 1) * 0.4).all()
    np.testing.assert_array_equal(rule.draw(0, "object 3", 84), drawn[3])


@pytest.mark.parametrize(
    "text", ["", "15", "fixed", "fixed:a", "fixed:1:2", "per_object:3", "dynamic:0:45:2", "fixed:90", "dynamic:30:20",
             "fixed:nan", "round:3"]
)  # fmt: skip
def test_refused(text):
    with pytest.raises(InputError):
        Elevations.parse(text)
