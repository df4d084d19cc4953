"""Train steps for TPUs: lowered here without a TPU compiler, really compiled where there is one; nothing runs."""

import dataclasses
import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.configs import im3d_paper, svd_multiview
from im3d_jax import parallel
from im3d_jax.progress import ProgressCalls
from im3d_jax.training.planning import abstract_step
from im3d_jax.training.stages.svd import example_shapes
from im3d_jax.training.stages.video_objectives import scalar_conditions
from im3d_jax.weights import flatten
from im3d_jax.weights.presets import PRESETS


ROOT = pathlib.Path(__file__).resolve().parents[2]


def miniature(config, **changes):
    recipe = config.get_config()
    stage = dataclasses.replace(recipe.stage, miniature=True, attention="tpu", **changes)
    return dataclasses.replace(recipe, stage=stage, run=dataclasses.replace(recipe.run, batch=2, micro_batches=1))


@pytest.mark.parametrize("config", [svd_multiview, im3d_paper], ids=["svd", "emu"])
def test_a_train_step_lowers_for_tpu(config):
    """With attention by the Pallas kernel in both directions, and both gradients of the convolutions."""
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    step, arguments = abstract_step(miniature(config), mesh)
    with jax.set_mesh(mesh):
        text = step.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 3  # forward, and gradients of queries and of keys and values
    assert text.count("stablehlo.convolution") > 20


def kinds(tree):
    return {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in flatten(tree).items()}


@pytest.mark.parametrize("name", ["svd_multiview_lora", "im3d_paper"])
def test_outlines_are_those_of_the_stage(name, tmp_path):
    """Shapes of parameters and examples without weights and data are those with them."""
    recipe = importlib.import_module(f"experiments.configs.{name}").get_smoke(tmp_path)
    stage = recipe.stage.build(0, recipe.mesh.make(), ProgressCalls(None))
    outline = recipe.stage.outline()
    assert kinds(outline.params) == kinds(stage.params)
    example = {name: np.asarray(value) for name, value in stage.source[0].items()}
    assert set(outline.example) == set(example)
    for key, leaf in outline.example.items():
        assert leaf.shape == example[key].shape, key
    assert all(outline.trained(name) == stage.trained(name) for name in kinds(stage.params))


@pytest.mark.parametrize("family", ["svd", "sv3d_u", "sv3d_p"])
def test_outlines_have_the_scalar_conditions_of_a_family(family):
    preset = PRESETS[family]
    told = scalar_conditions(preset, np.zeros((1, preset.frames), np.float32))
    assert example_shapes(preset)["vector"].shape == told.shape[1:]


@pytest.mark.slow
def test_a_train_step_compiles_for_tpu(tmp_path):
    """A miniature of SVD on eight chips, by the TPU compiler; adapters alone, which have the fewest arrays."""
    pytest.importorskip("libtpu")
    out = tmp_path / "tpu.jsonl"
    command = [sys.executable, "-m", "experiments.compile_tpu", "--case=svd_multiview", f"--json={out}"]
    changes = ["stage.miniature=true", "stage.trained=lora", "stage.remat=none", "run.micro_batches=1"]
    environment = {**os.environ, "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0"}  # half the time
    subprocess.run([*command, *(f"--set={each}" for each in changes)], cwd=ROOT, env=environment, check=True)
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line["fits"] and line["chips"] == 8 and line["mesh"] == {"data": 1, "fsdp": 8}
    assert 0 < line["bytes"] < 2**28 and line["aliased"] > 0
    assert line["collectives"]["all-reduce"] > 0
