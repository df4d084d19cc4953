"""Times the rasterizer, forward and backward; one JSON line a case.

    python -m experiments.benchmarks.rasterizer --gaussians=5000 --views=4 --size=128
    python -m experiments.benchmarks.rasterizer --gaussians=20000,100000,400000 --views=16 --size=256,512,1024 --gsplat
    python -m experiments.benchmarks.rasterizer --scene=garden --garden=PATH/garden_points.npz --views=1
    python -m experiments.benchmarks.rasterizer --views=16 --tile_size=8,16 --slab=4096,8192 --passes=backward
    python -m experiments.benchmarks.rasterizer --gaussians=100000 --views=16 --size=512 --stages

Timed are the forward pass, and forward plus backward of mean(rgb²) + mean(alpha²) with gradients to means, quaternions,
scales, opacities and colours (none to cameras), the capacity known. Flags with several values are swept, every
combination a case; a case that fails (too little memory, say) prints its error, and the next one runs. `--stages` times
the parts of the rasterizer alone. `--gsplat` times gsplat's CUDA kernels on the same scene in the same run.

Times are medians (and minima) of `--repeats` calls after warm-up, each waited for. Memory: `…_program_gib` is what the
compiled program asks for (arguments, results and temporaries); `peak_gib` is the device allocator's, of the process so
far, thus of one case alone only with `--isolate`, which gives each case a process of its own.
"""

# The packages of the peers stand beside a CUDA build of PyTorch alone.
# pyright: reportMissingImports=false
from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import splat
from experiments.benchmarks import rasterizer_stages, scenes
from experiments.benchmarks.timing import Lines, first_line, peak_gib, program_gib, require_cuda, timed
from experiments.programs import Program
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path


# Each may have several values; the defaults "auto" are those of `splat.render` for the device.
SWEPT = {
    "gaussians": (["20000"], "sizes of the torus"),
    "size": (["256"], "sides of the pictures, pixels (torus)"),
    "views": (["16"], "numbers of cameras"),
    "tile_size": (["auto"], "tile sides, pixels"),
    "block_size": (["32"], "splats in a block"),
    "slab": (["auto"], "blocks evaluated together"),
    "unroll": (["auto"], "splats in a step; 0 takes whole blocks by matrix products"),
    "exact_tiles": (["0"], "1: list only the tiles that an ellipse touches"),
}
TUNING = ("tile_size", "block_size", "slab", "unroll", "exact_tiles")
PASSES = ("forward", "backward")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    for name, (default, text) in SWEPT.items():
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_enum("scene", "torus", ["torus", "garden"], "what is drawn", flag_values=values)
    define_path("garden", "../shared/data/golden/garden_points.npz", "the garden scene's points", flag_values=values)
    define_integer("repeats", 20, "timed calls", lower_bound=1, flag_values=values)
    flags.DEFINE_multi_enum("passes", list(PASSES), PASSES, "what is timed", flag_values=values)
    flags.DEFINE_bool("stages", False, "time the parts of the rasterizer alone", flag_values=values)
    flags.DEFINE_bool("gsplat", False, "time gsplat's CUDA kernels beside ours", flag_values=values)
    flags.DEFINE_bool("isolate", False, "each case in a process of its own", flag_values=values)
    define_path("out", None, "also append the lines to this file", flag_values=values)


def rasterizer_case(
    gaussians: splat.Gaussians,
    cameras: splat.Cameras,
    repeats: int,
    options: splat.RenderOptions,
    passes: Sequence[str] = PASSES,
) -> dict[str, Any]:
    """Times our rasterizer on one scene.

    Args:
        gaussians: N gaussians.
        cameras: V cameras.
        repeats: Timed calls.
        options: Of `splat.render`.
        passes: Some of `PASSES`.
    """
    gaussians, cameras = jax.tree.map(jnp.asarray, (gaussians, cameras))
    pairs = splat.count_pairs(gaussians, cameras, options=options)
    draw = functools.partial(splat.render, capacity=splat.round_capacity(pairs), options=options)

    @jax.jit
    def forward(gaussians: splat.Gaussians, cameras: splat.Cameras):
        made = draw(gaussians, cameras)
        return made.rgb, made.alpha, made.pairs

    @jax.jit
    def backward(gaussians: splat.Gaussians, cameras: splat.Cameras):
        def loss(gaussians: splat.Gaussians) -> jax.Array:
            made = draw(gaussians, cameras)
            return jnp.square(made.rgb).mean() + jnp.square(made.alpha).mean()

        return jax.value_and_grad(loss)(gaussians)

    figures: dict[str, Any] = {"pairs": int(pairs)}
    programs = {"forward": ("forward", forward), "backward": ("forward_backward", backward)}
    for name, program in (programs[each] for each in passes):
        begun = time.perf_counter()
        compiled = program.lower(gaussians, cameras).compile()
        figures[name + "_compile_s"] = time.perf_counter() - begun
        figures[name + "_program_gib"] = program_gib(compiled)
        for key, value in timed(lambda compiled=compiled: compiled(gaussians, cameras), repeats).items():
            figures[f"{name}_{key}"] = value
    return figures | {"peak_gib": peak_gib()}


def gsplat_case(gaussians: splat.Gaussians, cameras: splat.Cameras, repeats: int) -> dict[str, Any]:
    """Times gsplat's CUDA kernels: unpacked, classic, 16² tiles, colours given directly.

    Args:
        gaussians: N gaussians of SH degree 0.
        cameras: V pinhole cameras.
        repeats: Timed calls.
    """
    import gsplat
    import torch

    tensor = functools.partial(torch.tensor, device="cuda", dtype=torch.float32)
    colours = splat.SH_C0 * np.asarray(gaussians.sh)[:, 0] + 0.5
    values = (
        gaussians.means,
        gaussians.quats,
        np.exp(gaussians.log_scales),
        1 / (1 + np.exp(-gaussians.opacity_logits)),
        colours,
    )
    leaves = [tensor(np.asarray(v)).requires_grad_(True) for v in values]
    pose, k = tensor(np.asarray(cameras.world_to_camera)), tensor(np.asarray(cameras.intrinsics))

    def draw():
        return gsplat.rasterization(*leaves, pose, k, cameras.width, cameras.height, packed=False)[:2]

    def forward():
        with torch.no_grad():
            draw()
        torch.cuda.synchronize()

    def backward():
        rgb, alpha = draw()
        torch.autograd.grad(rgb.square().mean() + alpha.square().mean(), leaves)
        torch.cuda.synchronize()

    figures = {"gsplat": gsplat.__version__, "torch": torch.__version__}
    for name, call in (("forward", forward), ("forward_backward", backward)):
        torch.cuda.reset_peak_memory_stats()
        for key, value in timed(call, repeats).items():
            figures[f"gsplat_{name}_{key}"] = value
    figures["gsplat_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    del leaves
    torch.cuda.empty_cache()  # the next case's arrays are JAX's
    return figures


def sweep(values: flags.FlagValues) -> list[dict[str, str]]:
    """Every combination of the swept flags, as texts.

    Raises:
        InputError: A value is neither a whole number (from 1 up, but for unroll and exact_tiles) nor "auto" where that
            is possible.
    """
    for name, (default, _) in SWEPT.items():
        for value in getattr(values, name):
            if not value.isdecimal() and not (value == "auto" and name in ("tile_size", "slab", "unroll")):
                raise InputError(f"--{name} got {value!r}; expected whole numbers such as --{name}={default[0]}")
            if name not in ("unroll", "exact_tiles") and value != "auto" and int(value) < 1:
                raise InputError(f"--{name} got {value}; expected at least 1")
    return [
        dict(zip(SWEPT, each, strict=True)) for each in itertools.product(*(getattr(values, name) for name in SWEPT))
    ]


def options_of(case: Mapping[str, str]) -> splat.RenderOptions:
    """Options of `splat.render` of one case."""
    tuning: dict[str, Any] = {name: None if case[name] == "auto" else int(case[name]) for name in TUNING}
    return splat.RenderOptions(**tuning | {"exact_tiles": bool(tuning["exact_tiles"])})


def run_case(case: Mapping[str, str], values: flags.FlagValues) -> dict[str, Any]:
    """The line of one case.

    Args:
        case: From `sweep`.
        values: The flags that are not swept.
    """
    count, size, views = (int(case[name]) for name in ("gaussians", "size", "views"))
    if values.scene == "garden":
        gaussians, cameras = scenes.garden(values.garden, views)
    else:
        gaussians, cameras = scenes.torus(count), scenes.orbit(views, size)
    options = options_of(case)
    line: dict[str, Any] = {"case": values.scene, "gaussians": len(gaussians.means), "views": views}
    line |= {"width": cameras.width, "height": cameras.height}
    for name in TUNING:
        value = getattr(options, name)
        line[name] = case[name] if value is None else value
    if values.stages:
        watch = functools.partial(timed, repeats=values.repeats)
        return line | rasterizer_stages.time_stages(gaussians, cameras, options, watch)
    line |= rasterizer_case(gaussians, cameras, values.repeats, options, tuple(values.passes))
    if values.gsplat:
        try:
            line |= gsplat_case(gaussians, cameras, values.repeats)
        except RuntimeError as error:  # PyTorch's, out of memory as a rule: our own figures stay
            line["gsplat_error"] = first_line(error)
    return line


def run_isolated(
    case: Mapping[str, str],
    values: flags.FlagValues,
    launch: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> str:
    """The line of one case from a process of its own, or one with the last line of its error.

    Args:
        case: From `sweep`.
        values: The other flags.
        launch: Runs a command, as `subprocess.run`.
    """
    given = [f"--{name}={text}" for name, text in case.items()]
    given += [f"--{name}={getattr(values, name)}" for name in ("scene", "garden", "repeats", "stages", "gsplat")]
    given += [f"--passes={name}" for name in values.passes]
    command = [sys.executable, "-m", "experiments.benchmarks.rasterizer", *given]
    done = launch(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        return lines[-1]
    said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return json.dumps({**case, "error": said[-1][:300]})


def run(values: flags.FlagValues) -> None:
    """Times every case of the flags.

    Raises:
        InputError: A flag's value cannot be used; nothing has been timed then.
    """
    if values.gsplat:
        require_cuda("--gsplat", "gsplat")
    if values.scene == "garden" and not os.path.isfile(values.garden):
        raise InputError(f"--garden={values.garden}: no such file; expected the garden scene's points")
    cases, lines = sweep(values), Lines(values.out)
    if not values.isolate:
        lines.measure(cases, lambda case: run_case(case, values), dict)
        return
    for case in cases:
        lines.write_text(run_isolated(case, values))


PROGRAM = Program("benchmarks.rasterizer", define_flags, run, "the lines of finished cases are printed")


if __name__ == "__main__":
    PROGRAM.start()
