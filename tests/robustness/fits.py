"""Cases of whole fits of captures: masks without a pixel, points in one place, odd sizes, scenes of any scale."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

import splat
from splat.gaussians import usable
from tests.data.posed import frames_of, pose, write_json, write_picture
from tests.robustness.case import Case, im3d


COMPILATION = 60.0  # seconds, on two cores that others use too
NAMES = [f"images/{place}.png" for place in range(4)]


def _fit(
    prepare: Callable[[pathlib.Path, dict[str, Any]], object],
    *flags: str,
    size: tuple[int, int] = (24, 16),
    says: str = "",
) -> Callable[[pathlib.Path], None]:
    """Fits four pictures of a grey; `prepare` changes the folder and the fields of the camera file."""

    def act(folder: pathlib.Path) -> None:
        for name in NAMES:
            write_picture(folder / name, *size, grey=150)
        fields: dict[str, Any] = {"camera_angle_x": 0.7, "frames": frames_of(NAMES)}
        prepare(folder, fields)
        write_json(folder, fields)
        steps = ("--steps=2", "--gaussians=100", "--sh_degree=0")
        said = im3d("reconstruct", f"--data={folder}", f"--out={folder / 'out'}", *steps, *flags)
        assert says in said
        found = splat.load_ply(folder / "out/asset.ply")
        assert len(found) and np.asarray(usable(found)).all()
        figures = json.loads((folder / "out/metrics.json").read_bytes())["views"]
        assert all(np.isfinite(value) for value in figures.values())
        assert (folder / "out/turntable.mp4").stat().st_size > 100

    return act


def _save_masks(values: dict[int, int]) -> Callable[[pathlib.Path, dict[str, Any]], None]:
    def prepare(folder: pathlib.Path, fields: dict[str, Any]) -> None:
        (folder / "masks").mkdir()
        for place, value in values.items():
            Image.new("L", (24, 16), value).save(folder / f"masks/{place}.png")

    return prepare


def _cloud(places: np.ndarray) -> Callable[[pathlib.Path, dict[str, Any]], None]:
    def prepare(folder: pathlib.Path, fields: dict[str, Any]) -> None:
        head = f"ply\nformat ascii 1.0\nelement vertex {len(places)}\nproperty double x\nproperty double y\n"
        rows = "\n".join(" ".join(map(repr, row)) for row in places.tolist())
        (folder / "p.ply").write_text(head + "property double z\nend_header\n" + rows + "\n")
        fields["ply_file_path"] = "p.ply"

    return prepare


def _scaled(factor: float) -> Callable[[pathlib.Path, dict[str, Any]], None]:
    def prepare(folder: pathlib.Path, fields: dict[str, Any]) -> None:
        for frame in fields["frames"]:
            matrix = np.array(frame["transform_matrix"])
            matrix[:3, 3] *= factor
            frame["transform_matrix"] = matrix.tolist()

    return prepare


def _clear(folder: pathlib.Path, fields: dict[str, Any]) -> None:
    for name in NAMES:
        Image.new("RGBA", (24, 16), (150, 150, 150, 0)).save(folder / name)


def _one_place(folder: pathlib.Path, fields: dict[str, Any]) -> None:
    for frame in fields["frames"]:
        frame["transform_matrix"] = pose(0.0).tolist()


def _nothing(folder: pathlib.Path, fields: dict[str, Any]) -> None:
    pass


def cases() -> Iterator[Case]:
    """All of this file."""
    yield Case(2, "fit", _fit(_nothing), seconds=COMPILATION)
    yield Case(2, "fit, one mask without a pixel", _fit(_save_masks({1: 0}), says="masks leave no pixel of 1 of 4"))
    yield Case(2, "fit, one mask without a pixel, held out", _fit(_save_masks({0: 0}), "--hold_out=2"))
    yield Case(
        2,
        "fit, masks without a pixel",
        _fit(_save_masks(dict.fromkeys(range(4), 0))),
        "masks leave no pixel of any view",
    )
    yield Case(4, "fit, pictures that are transparent", _fit(_clear))
    rng = np.random.default_rng(0)
    for name, places in (
        ("points in one place", np.zeros((50, 3))),
        ("points on a line", np.linspace([-1, 0, 0], [1, 0, 0], 50)),
        ("pairs of points", np.repeat(rng.normal(size=(25, 3)), 2, axis=0)),
        ("points behind all cameras", rng.normal(size=(50, 3)) + [0, 0, 1000.0]),
        ("a point far away", np.concatenate([rng.normal(size=(49, 3)), [[1e12, 0, 0]]])),
        ("more points than gaussians", rng.normal(size=(5000, 3))),
    ):
        yield Case(4, f"fit, {name}", _fit(_cloud(places)))
    for factor in (1e-6, 1e-3, 1e3, 1e6, 1e9):
        yield Case(3, f"fit of a scene of scale {factor:g}", _fit(_scaled(factor)))
    yield Case(3, "fit, all cameras in one place", _fit(_one_place), "views from one place")
    for size in ((11, 11), (11, 60), (61, 13)):
        yield Case(2, f"fit of pictures of {size[0]}x{size[1]}", _fit(_nothing, size=size), seconds=COMPILATION)
    yield Case(2, "fit of pictures of 10x40", _fit(_nothing, size=(10, 40)), "expected at least 11x11")
    for flags in (("--hold_out=4",), ("--strategy=mcmc",), ("--pose_refinement",), ("--random_background",)):
        yield Case(2, f"fit with {flags[0]}", _fit(_nothing, *flags), seconds=COMPILATION)
    for flags, words in ((("--hold_out=1",), "leaves none"), (("--downscale=2",), "expected at least 11x11")):
        yield Case(2, f"fit with {flags[0]}", _fit(_nothing, *flags), words)
