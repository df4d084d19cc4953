"""SIGKILL at random moments of `im3d reconstruct`, and the same command again: the bytes of a run left alone."""

import json
import multiprocessing
import os
import random
import time

import numpy as np
import pytest

from im3d_jax.output.cameras import encode_cameras
from im3d_jax.output.images import encode_png
from splat import orbit_cameras


KILLS = 10
# The modules are imported once and every process is forked from there, before jax starts its threads.
RUN = """
import jax

from im3d_jax.cli import common, fits, stages
from im3d_jax.cli.main import main

jax.config.update("jax_compilation_cache_dir", str(common.compilation_cache()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
common.start_jax = lambda: None
fits.CHECKPOINT_SECONDS = 0.0
stages.TURNTABLE_SIDE, stages.TURNTABLE_FRAMES = 16, 2
raise SystemExit(main(arguments))
"""


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Five views of a coloured square, one of them held out."""
    folder = tmp_path_factory.mktemp("capture")
    image = np.zeros((16, 16, 4), np.float32)
    image[4:12, 4:12] = 0.7, 0.4, 0.2, 1.0
    (folder / "a.png").write_bytes(encode_png(image))
    for name, views in (("train", 4), ("test", 1)):
        cameras = orbit_cameras(0.3, views=views, width=16, height=16, azimuth_offset=0.1 * views)
        (folder / f"transforms_{name}.json").write_bytes(encode_cameras(cameras, ["a"] * views))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory, capture):
    """Starts the program in a process of its own on an output folder."""
    os.environ["IM3D_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["im3d_jax.cli.stages", "im3d_jax.cli.reconstruct"])

    def begin(folder):
        flags = ["--steps=60", "--gaussians=192", "--sh_degree=0"]
        arguments = ["reconstruct", f"--data={capture}", f"--out={folder}", *flags]
        process = context.Process(target=exec, args=(RUN, {"arguments": arguments}))
        process.start()
        return process

    yield begin
    del os.environ["IM3D_COMPILATION_CACHE_DIR"]


def results(folder):
    """What a finished run leaves, times aside."""
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "timings.json"
    }
    metrics = json.loads(found["metrics.json"])
    assert metrics.pop("seconds") >= 0
    return found | {"metrics.json": metrics}


def test_ten_kills(start, tmp_path):
    process = start(tmp_path / "alone")
    process.join(120)
    assert process.exitcode == 0
    expected = results(tmp_path / "alone")
    assert {"asset.ply", "state/fit0.npz", "state/previews/000060.png"} <= expected.keys()
    assert not any("partial" in name for name in expected)
    begun = time.monotonic()
    process = start(tmp_path / "warm")
    process.join(120)
    longest = time.monotonic() - begun

    chance = random.Random(0)
    kills, inside_fits, number = 0, 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed{number}"
        process = start(folder)
        process.join(chance.uniform(0.2, 0.8) * longest)
        process.kill()
        process.join(30)
        if process.exitcode == -9:
            kills += 1
            inside_fits += (folder / "state/fit0.partial.npz").is_file()
        else:
            assert process.exitcode == 0 and results(folder) == expected
            number += 1
    assert inside_fits > 0
    folder = tmp_path / f"killed{number}"
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0 and results(folder) == expected
