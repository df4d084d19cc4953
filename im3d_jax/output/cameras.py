"""`cameras.json`: the views of a run folder with nerfstudio's fields.

The file holds OpenGL camera-to-world matrices; the turn from and to OpenCV is `splat`'s. Reading is
`im3d_jax.data.captures.load_capture`, as for any capture.
"""

import math

import numpy as np

from im3d_jax.output.run_folder import to_json
from splat.cameras import Cameras, to_opengl


def encode_cameras(cameras: Cameras, file_paths: list[str], elevation: float | None = None) -> bytes:
    """The text of `cameras.json`.

    Args:
        cameras: of one focal length and centre, V of them.
        file_paths: V paths of their images, relative to the JSON file.
        elevation: of the orbit in radians, recorded in degrees as `elevation_deg`.
    """
    matrices = np.asarray(to_opengl(cameras.world_to_camera), np.float64)
    intrinsics = np.asarray(cameras.intrinsics, np.float64)
    if len(file_paths) != len(matrices):
        raise ValueError(f"{len(file_paths)} file paths for {len(matrices)} cameras")
    if not (intrinsics == intrinsics[:1]).all():
        raise ValueError("the cameras differ in their intrinsics; expected one set for all views")
    value = {
        "camera_model": "OPENCV",
        "w": cameras.width,
        "h": cameras.height,
        "fl_x": intrinsics[0, 0, 0],
        "fl_y": intrinsics[0, 1, 1],
        "cx": intrinsics[0, 0, 2],
        "cy": intrinsics[0, 1, 2],
        "camera_angle_x": 2.0 * math.atan(0.5 * cameras.width / intrinsics[0, 0, 0]),
    }
    if elevation is not None:
        value["elevation_deg"] = math.degrees(elevation)
    value["frames"] = [
        {"file_path": path, "transform_matrix": matrix.tolist()}
        for path, matrix in zip(file_paths, matrices, strict=True)
    ]
    return to_json(value)
