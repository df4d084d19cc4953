"""cameras.json: written and read back, and in nerfstudio's convention."""

import json
import math

import numpy as np
import pytest

from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.data.captures import load_capture
from im3d_jax.images.files import encode_png
from splat import orbit_cameras


def test_round_trip(tmp_path):
    cameras = orbit_cameras(0.3, views=4, width=20, height=16)
    (tmp_path / "views").mkdir()
    names = [f"views/{index:02d}.png" for index in range(4)]
    for name in names:
        (tmp_path / name).write_bytes(encode_png(np.ones((16, 20, 4))))
    text = encode_cameras(cameras, names, elevation=0.3)
    (tmp_path / "cameras.json").write_bytes(text)
    capture = load_capture(tmp_path)
    assert capture.generated and capture.names == tuple(names)
    assert capture.elevation == pytest.approx(0.3)
    np.testing.assert_allclose(capture.cameras.world_to_camera, cameras.world_to_camera, atol=2e-6)
    np.testing.assert_allclose(capture.cameras.intrinsics, cameras.intrinsics, atol=1e-5)

    fields = json.loads(text)
    first = np.array(fields["frames"][0]["transform_matrix"])
    # OpenGL: the third column points back, away from the object, and the second one up.
    np.testing.assert_allclose(first[:3, 3], 3.44 * first[:3, 2], atol=1e-5)
    assert first[2, 1] > 0.9 and fields["elevation_deg"] == pytest.approx(math.degrees(0.3))


def test_refusals():
    cameras = orbit_cameras(0.3, views=4)
    with pytest.raises(ValueError, match="3 file paths"):
        encode_cameras(cameras, ["a"] * 3)
    scale = np.ones((4, 1, 1), np.float32)
    scale[2] = 2
    mixed = cameras.replace(intrinsics=np.asarray(cameras.intrinsics) * scale)
    with pytest.raises(ValueError, match="differ in their intrinsics"):
        encode_cameras(mixed, ["a"] * 4)
