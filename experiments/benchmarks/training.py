"""A training step of SVD at full size, loader included, and diffusers' on the same card.

    python -m experiments.benchmarks.training --steps=300 --out=runs/step [--diffusers] [--set remat=none] [--json=FILE]

Temporal layers of a network of random weights learn 16 turntables of Toybox, 21 frames of 72 x 72 latents, which are
averages of pixels: the data are real orbits, the codes are not SVD's. Shown: milliseconds a step and peak memory behind
compilation, and the loss on 64 fixed (sample, time, noise) triples before and after.
"""

# The packages of the peers stand beside a CUDA build of PyTorch alone.
# pyright: reportMissingImports=false
from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import shutil
import statistics
import time
from typing import Any

import jax
import ml_dtypes
import numpy as np
import optax
from absl import flags, logging
from jax.sharding import Mesh

from experiments.overrides import apply_overrides
from experiments.programs import Program, command_line
from im3d_jax import environment, parallel
from im3d_jax.data.encoded import EncodedWriter
from im3d_jax.data.toybox.turntable_set import ToyboxTurntables
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.progress import ProgressPrinter
from im3d_jax.training import RunSettings, Stage, make_optimizer, schedule, train
from im3d_jax.training.stages.svd import SvdTraining
from im3d_jax.training.stages.video_objectives import scalar_conditions
from im3d_jax.training.state import outline_state
from im3d_jax.training.trees import partition
from im3d_jax.weights.presets import PRESETS


FRAMES, SIDE, OBJECTS = 21, 72, 16
RATE = 1e-4


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_integer("steps", 60, "steps to train", lower_bound=30, flag_values=values)
    define_integer("devices", 1, "devices; one turntable a step on each", lower_bound=1, flag_values=values)
    define_integer("fsdp", 1, "of them, over which the state is split", lower_bound=1, flag_values=values)
    define_path("out", "runs/training", "folder of the run", flag_values=values)
    flags.DEFINE_multi_string("set", [], "override of the stage's settings, remat=none", flag_values=values)
    flags.DEFINE_bool("diffusers", False, "time diffusers' step too", flag_values=values)
    define_path("json", None, "file to write the figures to", flag_values=values)


def write_data(folder: pathlib.Path) -> None:
    """Encoded turntables whose latents are averages of pixels."""
    turntables = ToyboxTurntables("train", size=8 * SIDE, frames=FRAMES, objects=OBJECTS)
    writer = EncodedWriter(folder, {"toybox": OBJECTS, "frames": FRAMES, "side": SIDE})
    preset = PRESETS["svd"]
    for number in range(OBJECTS):
        turntable = turntables[number]
        pixels = turntable.rgba.reshape(FRAMES, SIDE, 8, SIDE, 8, 4).mean((2, 4)) / 127.5 - 1.0
        rng = np.random.default_rng(number)
        vector = scalar_conditions(preset, turntable.elevations[None])[0]
        arrays = {
            "latents": pixels.astype(ml_dtypes.bfloat16),
            "condition": (pixels[0] / preset.autoencoder.scaling_factor).astype(ml_dtypes.bfloat16),
            "context": rng.normal(size=(1, preset.unet.context_dims[0])).astype(ml_dtypes.bfloat16),
            "vector": np.asarray(vector, np.float32),
        }
        writer.add(number, turntable.key, turntable.caption, arrays)
    writer.finish()


def time_ours(values: flags.FlagValues) -> dict[str, Any]:
    """Trains and returns the figures."""
    folder, progress = pathlib.Path(values.out), ProgressPrinter()
    shutil.rmtree(folder / "run", ignore_errors=True)
    if not (folder / "data" / "index.jsonl").is_file():
        write_data(folder / "data")
    settings = SvdTraining(start="random", family="svd", data=str(folder / "data"), learning_rate=RATE)
    settings = apply_overrides(settings, values.set)
    mesh = parallel.make_mesh(fsdp=values.fsdp, devices=jax.devices()[: values.devices])
    stage = settings.build(0, mesh, progress)
    evaluate = stage.evaluate
    before = None if evaluate is None else evaluate(stage.params)["fixed_loss"]
    run = RunSettings(
        steps=values.steps, batch=values.devices, log_every=10, evaluate_every=values.steps, checkpoint_seconds=1e9
    )
    optimizer = make_optimizer("adamw", settings.rate, b2=0.999)
    started = time.monotonic()
    train(
        stage,
        optimizer,
        run,
        workdir=folder / "run",
        mesh=mesh,
        schedule=schedule(10, 0.0),
        line=progress.line,
    )
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    # The first piece compiles, the second may still fill the queue.
    steps = [line["ms_per_step"] for line in lines[2:] or lines[1:]]
    figures: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "ms_per_step": statistics.median(steps),
        "slowest_ms": max(steps),
        "examples_per_second": 1e3 * values.devices / statistics.median(steps),
        "peak_gib": lines[-1].get("peak_gib"),
        "state_gib": state_gib(stage, optimizer, mesh),
        "tflops_per_device": lines[-1].get("tflops_per_device"),
        "mfu": lines[-1].get("mfu"),
        "seconds": time.monotonic() - started,
    }
    if before is not None:
        after = lines[-1]["fixed_loss"]
        figures["fixed_loss"] = {"before": before, "after": after, "change": after / before - 1.0}
    return figures


def state_gib(stage: Stage, optimizer: optax.GradientTransformation, mesh: Mesh) -> float:
    """GiB of the train state on one device: trained parameters, their average, and the optimizer's moments."""
    trained, _ = partition(stage.params, stage.trained)
    leaves = jax.tree.leaves(outline_state(jax.random.key(0), trained, optimizer, mesh))
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves) / 2**30


def time_diffusers(repeats: int = 20) -> dict[str, Any]:
    """diffusers' UNet with checkpointing, bfloat16 autocast over float32 masters of the trained layers, AdamW."""
    import diffusers
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    network = diffusers.UNetSpatioTemporalConditionModel(num_frames=FRAMES).to("cuda")
    network.requires_grad_(False)
    trained = [parameter for name, parameter in network.named_parameters() if _temporal(name)]
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for parameter in trained:
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    network.enable_gradient_checkpointing()
    network.train()
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    generator = torch.Generator("cuda").manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, device="cuda", generator=generator)  # noqa: E731
    times = []
    torch.cuda.reset_peak_memory_stats()
    for number in range(repeats + 3):
        torch.cuda.synchronize()
        started = time.monotonic()
        sample, target = normal(1, FRAMES, 8, SIDE, SIDE), normal(1, FRAMES, 4, SIDE, SIDE)
        with torch.autocast("cuda", torch.bfloat16):
            made = network(
                sample, torch.ones(1, device="cuda"), normal(1, 1, 1024), torch.ones(1, 3, device="cuda"),
                return_dict=False,
            )[0]  # fmt: skip
        torch.nn.functional.mse_loss(made.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if number >= 3:
            times.append(1e3 * (time.monotonic() - started))
    return {
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "ms_per_step": statistics.median(times),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _temporal(name: str) -> bool:
    return any(part in name for part in ("temporal", "time_mixer", "time_pos_embed"))


def run(values: flags.FlagValues) -> None:
    """Measures.

    Raises:
        InputError: A wrong override.
    """
    logging.set_verbosity(logging.WARNING)
    environment.start_jax()
    figures = {
        "command": command_line("benchmarks.training"),
        "device": jax.devices()[0].device_kind,
        "devices": values.devices,
        "ours": time_ours(values),
    }
    if values.diffusers:
        figures["diffusers"] = time_diffusers()
    text = json.dumps(figures, indent=1)
    print(text)
    if values.json:
        pathlib.Path(values.json).write_text(text + "\n")


PROGRAM = Program("benchmarks.training", define_flags, run, "nothing is kept")


if __name__ == "__main__":
    PROGRAM.start()
