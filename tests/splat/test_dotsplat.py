"""Rows of .splat files against bytes written by hand, and malformed files."""

import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest

import splat


ROW = struct.pack("<6f8B", 1.5, -2, 0.25, 0.5, 2.0, 1.0, 0, 255, 51, 204, 128, 0, 128, 128)


def read(tmp_path, content):
    (tmp_path / "a.splat").write_bytes(content)
    return splat.load(tmp_path / "a.splat")


def test_a_row_is_read_as_described(tmp_path):
    gaussians = read(tmp_path, ROW * 3)
    assert len(gaussians) == 3 and gaussians.sh_degree == 0
    np.testing.assert_array_equal(gaussians.means[1], [1.5, -2, 0.25])
    np.testing.assert_allclose(gaussians.scales[1], [0.5, 2, 1], rtol=1e-6)
    np.testing.assert_allclose(gaussians.quats[1], [0, -1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(gaussians.opacities[1], 0.8, atol=1e-6)
    np.testing.assert_allclose(0.5 + 0.28209479 * gaussians.sh[1, 0], [0, 1, 0.2], atol=1e-6)


def test_written_bytes_are_those_of_the_description(tmp_path):
    gaussians = splat.Gaussians(
        means=jnp.array([[1.5, -2.0, 0.25]], jnp.float32),
        quats=jnp.array([[0, 3, 0, 0]], jnp.float32),
        log_scales=jnp.log(jnp.array([[0.5, 2, 1]], jnp.float32)),
        opacity_logits=jnp.array([math.log(4)], jnp.float32),
        sh=(jnp.array([[[-9, 1, 0.2]]], jnp.float32) - 0.5) / 0.28209479,
    )
    splat.save(tmp_path / "a.splat", gaussians)
    written = (tmp_path / "a.splat").read_bytes()
    assert written[12:24] == ROW[12:24] or np.allclose(np.frombuffer(written[12:24], "<f4"), [0.5, 2, 1], rtol=1e-6)
    assert written[:12] == ROW[:12] and written[24:] == ROW[24:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (ROW[:-1], "31 bytes, not a positive multiple of 32"),
        (ROW + struct.pack("<f", math.nan) + ROW[4:], "row 1"),
        (ROW[:12] + struct.pack("<f", -0.5) + ROW[16:], "scale -0.5, expected 0 or more .*logarithms"),
        (ROW[:16] + struct.pack("<f", math.inf) + ROW[20:], "row 0"),
    ],
)
def test_malformed_files_are_rejected_with_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value) and "a.splat" in str(error.value)


def test_edges_of_the_bytes(tmp_path):
    row = ROW[:12] + struct.pack("<3f", 0, 1e-42, 3e38) + bytes([0, 0, 0, 0]) + bytes([128] * 4)
    gaussians = read(tmp_path, row + ROW[:24] + bytes([255] * 8))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in (gaussians.log_scales, gaussians.opacity_logits))
    assert not gaussians.quats[0].any()  # no rotation: the renderer counts such a gaussian as invalid
    np.testing.assert_allclose(gaussians.opacities, [0, 1], atol=0.001)
