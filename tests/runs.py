"""What tests of whole runs share: a capture that is fitted in seconds, and what a run leaves."""

import json

import numpy as np

from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.images.files import encode_png
from splat import orbit_cameras


def write_capture(folder):
    """A coloured square in four views, held out in two more."""
    image = np.zeros((16, 16, 4), np.float32)
    image[4:12, 4:12] = 0.7, 0.4, 0.2, 1.0
    (folder / "a.png").write_bytes(encode_png(image))
    for name, views in (("train", 4), ("test", 2)):
        cameras = orbit_cameras(0.3, views=views, width=16, height=16, azimuth_offset=0.1 * views)
        (folder / f"transforms_{name}.json").write_bytes(encode_cameras(cameras, ["a"] * views))
    return folder


def results(folder):
    """{file: bytes} of a finished run, its metrics parsed; without the times."""
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "timings.json"
    }
    metrics = json.loads(found["metrics.json"])
    assert metrics.pop("seconds") >= 0
    return found | {"metrics.json": metrics}
