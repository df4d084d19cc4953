"""Small captures for tests: pictures and a camera file, written field by field."""

import json
import math

import numpy as np
from PIL import Image


def pose(azimuth, distance=4.0, at=(0.0, 0.0, 0.0)):
    """OpenGL camera-to-world at (azimuth, elevation 0) around a point: +x right, +y up, +z back."""
    backward = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([[-math.sin(azimuth), math.cos(azimuth), 0.0], [0.0, 0.0, 1.0], backward], 1)
    matrix[:3, 3] = np.asarray(at) + distance * backward
    return matrix


def write_picture(file, width=24, height=16, grey=128, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), grey, np.uint8)).save(file, **options)


def frames_of(names, at=(0.0, 0.0, 0.0), **more):
    """One frame a name, around a point, and fields that all of them have."""
    return [
        {"file_path": name, "transform_matrix": pose(0.5 * place, at=at).tolist(), **more}
        for place, name in enumerate(names)
    ]


def write_json(folder, fields, name="transforms.json", encoding="utf-8"):
    (folder / name).write_text(json.dumps(fields), encoding=encoding)
    return folder


def write_capture(folder, count=4, at=(0.0, 0.0, 0.0), **fields):
    """`count` pictures of 24x16 and their camera file; returns the fields written."""
    names = [f"images/{place:04d}.png" for place in range(count)]
    for place, name in enumerate(names):
        write_picture(folder / name, grey=20 * place)
    made = {"camera_angle_x": 0.7, "frames": frames_of(names, at)} | fields
    write_json(folder, made)
    return made
