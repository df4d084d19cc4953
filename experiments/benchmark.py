"""Times the rasterizer and the fit; one JSON line a case.

    python -m experiments.benchmark rasterizer --gaussians=5000 --views=4 --size=128
    python -m experiments.benchmark rasterizer --gaussians=20000,100000,400000 --views=16 --size=256,512,1024 --gsplat
    python -m experiments.benchmark rasterizer --scene=garden --garden=PATH/garden_points.npz --views=1
    python -m experiments.benchmark rasterizer --views=16 --tile_size=8,16 --slab=4096,8192 --passes=backward
    python -m experiments.benchmark rasterizer --gaussians=100000 --views=16 --size=512 --stages
    python -m experiments.benchmark fit --gaussians=5000 --views=1 --size=128

`rasterizer` times the forward pass, and forward plus backward of mean(rgb²) + mean(alpha²) with gradients to means,
quaternions, scales, opacities and colours (none to cameras), the capacity known. Flags with several values are swept,
every combination a case; a case that fails (too little memory, say) prints its error, and the next one runs.
`--stages` times the parts of the same scene alone. `--gsplat` times gsplat's CUDA kernels on the same scene in the same
run where it can be imported. `fit` times optimisation steps of the standard preset without density control, with the
bundled model's perceptual features.

Times are medians (and minima) of `--repeats` calls after warm-up, each waited for. Memory: `…_program_gib` is what the
compiled program asks for (arguments, results and temporaries); `peak_gib` is the device allocator's, of the process so
far, thus of one case alone only with `--isolate`, which gives each case a process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import splat
from experiments import rasterizer_stages, scenes


# Each may have several values; the defaults "auto" are those of `splat.render` for the device.
SWEPT = {
    "gaussians": (["20000"], "Sizes of the torus."),
    "size": (["256"], "Sides of the pictures, pixels (torus)."),
    "views": (["16"], "Numbers of cameras."),
    "tile_size": (["auto"], "Tile sides, pixels."),
    "block_size": (["32"], "Splats a block."),
    "slab": (["auto"], "Blocks evaluated together."),
    "unroll": (["auto"], "Splats a step; 0 takes whole blocks by matrix products."),
    "exact_tiles": (["0"], "1: list only the tiles that an ellipse touches."),
}
TUNING = ("tile_size", "block_size", "slab", "unroll", "exact_tiles")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    for name, (default, text) in SWEPT.items():
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_enum("scene", "torus", ["torus", "garden"], "What is drawn.", flag_values=values)
    flags.DEFINE_string(
        "garden", "../shared/data/golden/garden_points.npz", "The garden scene's points.", flag_values=values
    )
    flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1, flag_values=values)
    flags.DEFINE_multi_enum(
        "passes", ["forward", "backward"], ["forward", "backward"], "What is timed.", flag_values=values
    )
    flags.DEFINE_bool("stages", False, "Time the parts of the rasterizer alone.", flag_values=values)
    flags.DEFINE_bool("gsplat", False, "Time gsplat's CUDA kernels beside ours.", flag_values=values)
    flags.DEFINE_bool("isolate", False, "Each case in a process of its own.", flag_values=values)
    flags.DEFINE_string("out", None, "Also append the lines to this file.", flag_values=values)


def timed(call, repeats: int) -> dict[str, float]:
    """Median and minimum of `repeats` waited-for calls, milliseconds, after three to warm up."""
    for _ in range(3):
        jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - begun))
    return {"median_ms": statistics.median(times), "min_ms": min(times)}


def machine() -> dict[str, str]:
    """Where the figures come from."""
    made = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "python": sys.version.split()[0]}
    return made | ({"xla_flags": os.environ["XLA_FLAGS"]} if os.environ.get("XLA_FLAGS") else {})


def peak_gib() -> float | None:
    """Peak device memory of this process so far, GiB; None where the device does not count."""
    figures = jax.devices()[0].memory_stats()
    return None if not figures else figures["peak_bytes_in_use"] / 2**30


def program_gib(compiled: jax.stages.Compiled) -> float:
    """Memory of a compiled program: arguments, results and temporaries, GiB."""
    sizes = compiled.memory_analysis()
    return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes) / 2**30


def rasterizer_case(
    gaussians: splat.Gaussians,
    cameras: splat.Cameras,
    repeats: int,
    options: splat.RenderOptions,
    passes: tuple[str, ...] = ("forward", "backward"),
) -> dict:
    """Our rasterizer on one scene."""
    gaussians, cameras = jax.tree.map(jnp.asarray, (gaussians, cameras))
    pairs = splat.count_pairs(gaussians, cameras, options=options)
    draw = functools.partial(splat.render, capacity=splat.round_capacity(pairs), options=options)

    @jax.jit
    def forward(gaussians, cameras):
        made = draw(gaussians, cameras)
        return made.rgb, made.alpha, made.pairs

    @jax.jit
    def backward(gaussians, cameras):
        def loss(gaussians):
            made = draw(gaussians, cameras)
            return jnp.square(made.rgb).mean() + jnp.square(made.alpha).mean()

        return jax.value_and_grad(loss)(gaussians)

    figures = {"pairs": int(pairs)}
    programs = {"forward": ("forward", forward), "backward": ("forward_backward", backward)}
    for name, program in (programs[each] for each in passes):
        begun = time.perf_counter()
        compiled = program.lower(gaussians, cameras).compile()
        figures[name + "_compile_s"] = time.perf_counter() - begun
        figures[name + "_program_gib"] = program_gib(compiled)
        for key, value in timed(lambda compiled=compiled: compiled(gaussians, cameras), repeats).items():
            figures[f"{name}_{key}"] = value
    return figures | {"peak_gib": peak_gib()}


def gsplat_case(gaussians: splat.Gaussians, cameras: splat.Cameras, repeats: int) -> dict:
    """gsplat's CUDA kernels on the same scene: unpacked, classic, 16² tiles, colours given directly."""
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


def fit_case(count: int, views: int, size: int, repeats: int) -> dict:
    """Steps of the standard fit on the torus: all `views` a step, perceptual features of the bundled model."""
    import dataclasses

    from im3d_jax import pipeline
    from im3d_jax.reconstruction import PRESETS, Targets, fit, init_state

    cameras = jax.tree.map(jnp.asarray, scenes.orbit(views, size))
    made = splat.render(jax.tree.map(jnp.asarray, scenes.torus(count)), cameras)
    rgba = jnp.concatenate([made.rgb / jnp.maximum(made.alpha, 1e-6)[..., None], made.alpha[..., None]], axis=-1)
    targets = Targets(jnp.clip(rgba, 0.0, 1.0))
    config = dataclasses.replace(
        PRESETS["standard"],
        views_per_step=views,
        initial=count,
        capacity=count,
        densify_until=0,
        steps=10_000,
    )
    features = pipeline.load().features
    state = init_state(jax.random.key(0), config, cameras, targets=targets)
    begun = time.perf_counter()
    state, _ = fit(state, targets, cameras, config, features=features, stop_step=5)
    figures = {"first_steps_s": time.perf_counter() - begun}
    begun = time.perf_counter()
    state, _ = fit(state, targets, cameras, config, features=features, stop_step=5 + repeats)
    jax.block_until_ready(state)
    return figures | {"ms_per_step": 1e3 * (time.perf_counter() - begun) / repeats, "peak_gib": peak_gib()}


def cases(values: flags.FlagValues) -> list[dict[str, str]]:
    """Every combination of the swept flags, as texts.

    Raises:
        app.UsageError: A value is neither a whole number (from 1 up, but for unroll and exact_tiles) nor "auto" where
            that is possible.
    """
    for name, (default, _) in SWEPT.items():
        for value in values[name].value:
            if not value.isdecimal() and not (value == "auto" and name in ("tile_size", "slab", "unroll")):
                raise app.UsageError(f"--{name} got {value!r}; expected whole numbers such as --{name}={default[0]}")
            if name not in ("unroll", "exact_tiles") and value != "auto" and int(value) < 1:
                raise app.UsageError(f"--{name} got {value}; expected at least 1")
    return [dict(zip(SWEPT, each, strict=True)) for each in itertools.product(*(values[name].value for name in SWEPT))]


def run_case(what: str, case: dict[str, str], values: flags.FlagValues) -> dict:
    """The figures of one case."""
    count, size, views = (int(case[name]) for name in ("gaussians", "size", "views"))
    if what == "fit":
        line = {"case": "fit", "gaussians": count, "views": views, "size": size}
        return line | fit_case(count, views, size, values.repeats)
    if values.scene == "garden":
        gaussians, cameras = scenes.garden(values.garden, views)
    else:
        gaussians, cameras = scenes.torus(count), scenes.orbit(views, size)
    line = {"case": values.scene, "gaussians": len(gaussians.means), "views": views}
    line |= {"width": cameras.width, "height": cameras.height}
    tuning: dict[str, Any] = {name: None if case[name] == "auto" else int(case[name]) for name in TUNING}
    tuning["exact_tiles"] = bool(tuning["exact_tiles"])
    options = splat.RenderOptions(**tuning)
    line |= {name: case[name] if value is None else value for name, value in tuning.items()}
    if values.stages:
        watch = functools.partial(timed, repeats=values.repeats)
        return line | rasterizer_stages.time_stages(gaussians, cameras, options, watch)
    line |= rasterizer_case(gaussians, cameras, values.repeats, options, tuple(values.passes))
    if values.gsplat:
        try:
            line |= gsplat_case(gaussians, cameras, values.repeats)
        except RuntimeError as error:  # PyTorch's, out of memory as a rule: our own figures stay
            line["gsplat_error"] = str(error).splitlines()[0][:300]
    return line


def run_isolated(what: str, case: dict[str, str], values: flags.FlagValues) -> str:
    """The line of one case from a process of its own, or one with the error's last line."""
    given = [f"--{name}={text}" for name, text in case.items()]
    given += [f"--{name}={values[name].value}" for name in ("scene", "garden", "repeats", "stages", "gsplat")]
    given += [f"--passes={name}" for name in values.passes]
    command = [sys.executable, "-m", "experiments.benchmark", what, *given]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        return lines[-1]
    said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return json.dumps(case | {"error": said[-1][:300]})


def require_cuda(flag: str, package: str) -> None:
    """Checks that a package that is timed beside ours can run, and leaves it memory; before JAX's first use.

    Raises:
        app.UsageError: It is not installed, or PyTorch finds no CUDA device.
    """
    if importlib.util.find_spec(package) is None:
        raise app.UsageError(f"{flag}: {package} is not installed here")
    import torch

    if not torch.cuda.is_available():
        raise app.UsageError(f"{flag}: PyTorch finds no CUDA device, which {package} is timed on; leave the flag away")
    # JAX would take three quarters of the device at its first use and leave PyTorch the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def run(what: str, values: flags.FlagValues) -> None:
    """Times every case of the flags; `what` is ``rasterizer`` or ``fit``.

    Raises:
        app.UsageError: A flag's value cannot be used; nothing has been timed then.
    """
    if values.gsplat:
        require_cuda("--gsplat", "gsplat")
    if what == "rasterizer" and values.scene == "garden" and not os.path.isfile(values.garden):
        raise app.UsageError(f"--garden={values.garden}: no such file; expected the garden scene's points")
    for case in cases(values):
        if values.isolate:
            text = run_isolated(what, case, values)
        else:
            try:
                line = run_case(what, case, values)
            except jax.errors.JaxRuntimeError as error:
                line = case | {"error": str(error).splitlines()[0][:300]}
            text = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in (line | machine()).items()})
        print(text, flush=True)
        if values.out:
            with open(values.out, "a") as file:
                file.write(text + "\n")


def main(argv):
    if len(argv) != 2 or argv[1] not in ("rasterizer", "fit"):
        raise app.UsageError("expected one argument: rasterizer or fit")
    run(argv[1], flags.FLAGS)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
