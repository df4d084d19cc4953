"""Orbits of several pictures at once, through `experiments.sample`'s samplers: as drawn alone.

Run as a script it is the part that needs eight fake devices.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import sample
from experiments.batches import Request
from experiments.orbit_batches import OrbitBatchSampler
from im3d_jax import parallel
from im3d_jax.cli import common
from im3d_jax.errors import InputError
from im3d_jax.foreign.video import OrbitPipeline, open_orbits
from im3d_jax.images.files import read_image, read_images
from im3d_jax.errors import WeightsError
from im3d_jax.weights.presets import PRESETS


def requests(side):
    rng = np.random.default_rng(1)
    pictures = rng.uniform(size=(3, side, side, 4)).astype(np.float32)
    return [Request(None, picture, seed) for seed, picture in enumerate(pictures, 4)]


def composite(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def compare(model, mesh, size):
    rows, side = requests(model.image_size), model.image_size
    together = OrbitBatchSampler(model, "draft", mesh, size).start(rows)()
    assert len(together) == 3
    for row, drawn in zip(rows, together, strict=True):
        views, count = model.draw_views(row.picture, None, seed=row.seed, quality="draft")
        assert drawn.views.shape == (model.num_views, side, side, 4) and drawn.evaluations == (0, count)
        np.testing.assert_allclose(composite(drawn.views), composite(views), atol=1e-5)
        # Cutting out divides by small contrasts.
        np.testing.assert_allclose(drawn.views, views, atol=1e-3)
        assert drawn.said == tuple(line.removeprefix("views: ") for line in model.said)
    assert np.abs(together[0].views - together[1].views).max() > 1e-3


def test_weights_that_draw_no_numbers(small, checkpoints):
    model = open_orbits(str(checkpoints["sv3d_u"]))
    sampler = OrbitBatchSampler(model, "draft", parallel.make_mesh(devices=jax.devices()[:1]), 1)
    sampler._vae = jax.tree.map(lambda leaf: leaf * jnp.nan, sampler._vae)
    picture = np.ones((model.image_size, model.image_size, 4), np.float32)
    with pytest.raises(WeightsError, match="no numbers"):
        sampler.start([Request(None, picture, 0)])()


def test_wrong_batches(small, checkpoints):
    model = open_orbits(str(checkpoints["sv3d_u"]))
    assert isinstance(model, OrbitPipeline) and model.memory.keep
    sampler = OrbitBatchSampler(model, "draft", parallel.make_mesh(devices=jax.devices()[:1]), 2)
    for wrong in ([Request("mug", None, 0)], [], requests(model.image_size)):
        with pytest.raises(ValueError, match="expected 1 to 2 requests with pictures"):
            sampler.start(wrong)
    with pytest.raises(ValueError, match="a batch of 0"):
        OrbitBatchSampler(model, "draft", parallel.make_mesh(devices=jax.devices()[:1]), 0)


def test_lines_with_pictures_become_run_folders(small, checkpoints, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    (tmp_path / "lines.jsonl").write_text('{"image": "box.png", "seed": 3}\n{"image": "box.png", "seed": 4}\n')
    model = str(checkpoints["sv3d_u"])
    values = flags.FlagValues()
    sample.define_flags(values)
    arguments = ["--batch=2", "--quality=draft", "--orbit_direction=cw"]
    values(["", f"--prompts={tmp_path / 'lines.jsonl'}", f"--model={model}", f"--out={tmp_path / 'out'}", *arguments])
    summary = sample.run(values, "command")
    assert (summary["finished"], summary["batch"], summary["devices"]) == (2, 2, 1)
    first = {}
    for name in ("00001", "00002"):
        run = tmp_path / "out" / name
        made = read_images(sorted((run / "views").iterdir()))
        np.testing.assert_array_equal(made[0], read_image(run / "input.png"))
        first[name] = made[1]
        record = json.loads((run / "run.json").read_text())
        # 1 step of a draft's 2/5 of 4, two branches.
        assert record["network_evaluations"] == 2 and record["orbit"]["direction"] == "cw"
        assert record["settings"]["orbit_direction"] == "cw" and (run / "cameras.json").is_file()
    assert np.abs(first["00001"] - first["00002"]).max() > 0.01
    (tmp_path / "lines.jsonl").write_text('{"image": "box.png", "seed": 3}\n{"prompt": "mug"}\n')
    with pytest.raises(InputError, match="line 2 of .*starts from a picture"):
        sample.run(values, "command")


def eight_devices(folder):
    """The comparison with the rows over eight devices."""
    import conftest  # of this folder, where a script's imports are looked for first

    assert len(jax.devices()) == 8
    PRESETS["sv3d_p"] = conftest.tiny("sv3d_p")
    file = conftest.write_sgm(pathlib.Path(folder) / "sv3d_p.safetensors", PRESETS["sv3d_p"])
    compare(open_orbits(str(file)), parallel.make_mesh(), 8)
    print("8 devices agree with drawing alone")


def test_eight_devices(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
    }
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 devices" in done.stdout


if __name__ == "__main__":
    eight_devices(sys.argv[1])
