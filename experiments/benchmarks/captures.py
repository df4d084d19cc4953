"""Fits captures by our strategies and by gsplat's trainer on one machine; one JSON line a fit.

    python -m experiments.benchmarks.captures --data=DIR --steps=7000 --seeds=0,1,2 --runs=ours,mcmc,gsplat
    python -m experiments.benchmarks.captures --data=DIR --runs=ours --nouse_masks
    python -m experiments.benchmarks.captures --data=DIR --runs=gsplat --gsplat_start=cube --gsplat_reset
    python -m experiments.benchmarks.captures --data=DIR --downscale=4 --steps=1000 --runs=ours

`ours` and `mcmc` are the fits of `im3d reconstruct` with --strategy=default and mcmc. `gsplat` is gsplat's default
strategy with the rates, the schedule and the losses of its `simple_trainer`, on white; it needs PyTorch with CUDA,
gsplat, and `fused_ssim` or, slower with the same numbers, `pytorch_msssim`. --gsplat_start=hull begins where ours does,
with as many points inside the visual hull of the masks; cube with Kerbl et al.'s 100,000 points in a cube of side 2.6.
In gsplat 1.5.3 `DefaultStrategy.step_post_backward` tests ``step % self.reset_every == 0 & step > 0``. `&` binds
tighter than comparisons, which Python chains: ``step % self.reset_every == (0 & step) and (0 & step) > 0`` never holds,
so its opacities are never reset. --gsplat_reset adds the reset that the strategy documents, every 3,000 steps.

Both are judged by one function, on white: PSNR and SSIM are means over the held-out views, which the capture must have.
`seconds` is wall time from the choice of the start to the end of the last step. Ours contains the compilation, most of
which the persistent cache spares later runs (`first_steps_s`: the start and the first segment of at most 100 steps);
gsplat's does not contain that of its kernels. Times count only where nothing else runs on the device.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks.timing import Lines, machine, require_cuda, require_one_of
from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.choices import FEWEST_GAUSSIANS, MOST_GAUSSIANS
from im3d_jax.data.captures import Capture, load_capture
from im3d_jax.errors import InputError
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.generation.products import compare
from im3d_jax.generation.shards import parse_shard
from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.output.renders import render_views
from im3d_jax.paths import define_path
from im3d_jax.progress import ProgressPrinter, Report
from im3d_jax.reconstruction import FitConfig, Targets, final_gaussians, fit, init_state
from splat import Cameras


STRATEGIES: dict[str, Literal["default", "mcmc"]] = {"ours": "default", "mcmc": "mcmc"}
RUNS = (*STRATEGIES, "gsplat")
Drawer = Callable[[Cameras], np.ndarray]
"""Draws [V, H, W, 4] images, straight alpha, at cameras."""


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("data", "../shared/data/lego400", "folder of the capture", flag_values=values)
    define_integer("downscale", 1, "mean over so many pixels squared", lower_bound=1, flag_values=values)
    flags.DEFINE_list("runs", list(STRATEGIES), f"which fits: {', '.join(RUNS)}", flag_values=values)
    flags.DEFINE_list("seeds", ["0"], "every run is done with each of them", flag_values=values)
    define_integer("steps", 7000, "length of a fit", lower_bound=1, flag_values=values)
    define_integer("sh_degree", 3, "of the spherical harmonics", lower_bound=0, upper_bound=4, flag_values=values)
    define_integer(
        "gaussians",
        None,
        "most gaussians of ours; by the capture's pixels without",
        lower_bound=FEWEST_GAUSSIANS,
        upper_bound=MOST_GAUSSIANS,
        flag_values=values,
    )
    flags.DEFINE_bool("use_masks", True, "off: all runs get the views on white, without alpha", flag_values=values)
    flags.DEFINE_bool("random_background", False, "ours: a new colour behind the object each step", flag_values=values)
    define_float("mask_weight", 0.0, "ours: of the error of alpha", lower_bound=0.0, flag_values=values)
    flags.DEFINE_enum("gsplat_start", "hull", ["hull", "cube"], "where gsplat's gaussians begin", flag_values=values)
    flags.DEFINE_bool("gsplat_reset", False, "reset gsplat's opacities every 3,000 steps", flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: only fits i, i + n, i + 2 n, ...", flag_values=values)
    define_path("out", None, "also append the lines to this file", flag_values=values)


def parse_fits(values: flags.FlagValues) -> list[tuple[int, str]]:
    """Seed and run of each fit of --seeds, --runs and --shard, seed by seed.

    Raises:
        InputError: A value that cannot be used.
    """
    part, parts = parse_shard(values.shard)
    if not values.seeds or not all(text.isdecimal() and len(text) < 10 for text in values.seeds):
        raise InputError(f"--seeds={','.join(values.seeds)}: expected whole numbers of at most 9 digits, as in 0,1,2")
    if not values.runs or not set(values.runs) <= set(RUNS):
        raise InputError(f"--runs={','.join(values.runs)}: expected some of {', '.join(RUNS)}")
    gsplat = {"gsplat_start": ["gsplat"], "gsplat_reset": ["gsplat"]}
    concerned = gsplat | {"random_background": STRATEGIES, "mask_weight": STRATEGIES}
    for name, runs in concerned.items():
        if values[name].present and not set(runs) & set(values.runs):
            raise InputError(f"--{name} changes nothing in --runs={','.join(values.runs)}; leave it away")
    return [(int(seed), run) for seed in values.seeds for run in values.runs][part::parts]


def check_gsplat() -> None:
    """Checks that gsplat's trainer can run, and leaves it memory; before JAX's first use.

    Raises:
        InputError: A package or a CUDA device is missing.
    """
    require_cuda("--runs=gsplat", "gsplat")
    require_one_of("--runs=gsplat", ["fused_ssim", "pytorch_msssim"])


def open_capture(values: flags.FlagValues, with_gsplat: bool) -> Capture:
    """The capture of --data, as --downscale and --use_masks have it.

    Args:
        values: The flags.
        with_gsplat: Whether gsplat will fit it too.

    Raises:
        InputError: It cannot be read, has no held-out views, or is nothing for gsplat's classic rasterizer.
    """
    capture = load_capture(values.data, values.downscale)
    cameras = capture.cameras
    if capture.test is None:
        raise InputError(f"--data={values.data}: no held-out views to judge by; expected transforms_test.json in it")
    if min(cameras.width, cameras.height) < metrics.WINDOW:
        raise InputError(
            f"--downscale={values.downscale} leaves {cameras.width}x{cameras.height} pixels; "
            f"SSIM needs at least {metrics.WINDOW}x{metrics.WINDOW}"
        )
    if with_gsplat and (cameras.model != "pinhole" or cameras.distortion is not None):
        raise InputError(f"--runs=gsplat: {values.data} has distorted or fisheye views; only ours can fit those")
    if values.use_masks:
        return capture
    if values.random_background or values.mask_weight:
        raise InputError("--nouse_masks takes the alpha away that --random_background and --mask_weight need")
    rgb = composite(capture.images)
    return dataclasses.replace(capture, images=np.concatenate([rgb, np.ones_like(rgb[..., :1])], axis=-1))


def config_of(values: flags.FlagValues, capture: Capture, run: str) -> FitConfig:
    """Our settings: those of `im3d reconstruct`, as the flags change them.

    Args:
        values: The flags.
        capture: What is fitted.
        run: One of `RUNS`; that of gsplat takes the number of gaussians at the start from ours.
    """
    settings = CaptureSettings(
        steps=values.steps,
        strategy=STRATEGIES.get(run, "default"),
        sh_degree=values.sh_degree,
        random_background=values.random_background,
        gaussians=values.gaussians,
    )
    return dataclasses.replace(settings.config(capture), mask_weight=values.mask_weight)


def fit_ours(capture: Capture, config: FitConfig, seed: int, report: Report) -> tuple[dict[str, Any], Drawer]:
    """Our fit.

    Args:
        capture: The views.
        config: The settings.
        seed: Of all that is random.
        report: Takes the progress.

    Returns:
        Figures: `seconds` in all, `start_s` up to the first step, `first_steps_s` to the end of the first segment, the
        segments' mean time a step as median and 90th percentile over all but the first one, gaussians, pairs and the
        room for both. And what draws the result.
    """
    targets = jax.block_until_ready(Targets(jnp.asarray(capture.images)))
    begun = time.perf_counter()
    state = jax.block_until_ready(init_state(jax.random.key(seed), config, capture.cameras, targets=targets))
    started = time.perf_counter() - begun
    marks: list[tuple[int, float]] = []

    def progress(step: int, total: int, note: str) -> None:
        marks.append((step, time.perf_counter() - begun))
        report(step, total, note)

    state, info = fit(state, targets, capture.cameras, config, progress=progress)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begun
    gaussians = final_gaussians(state)
    figures = {
        "seconds": seconds,
        "start_s": started,
        "first_steps_s": marks[0][1],
        "mean_ms_per_step": 1e3 * seconds / config.steps,
    }
    spans = zip(marks, marks[1:], strict=False)
    times = sorted(1e3 * (late - early) / (after - before) for (before, early), (after, late) in spans)
    if times:
        figures |= {"median_ms_per_step": statistics.median(times), "p90_ms_per_step": times[int(0.9 * len(times))]}
    figures |= {
        "gaussians": len(gaussians),
        "rows": config.capacity,
        "pairs": info["pairs"],
        "pair_capacity": state.pair_capacity,
        "background": config.background,
        "mask_weight": config.mask_weight,
    }
    return figures, lambda cameras: render_views(gaussians, cameras)


def judge(draw: Drawer, capture: Capture) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM of the held-out views, the worst of their PSNRs, and the mean PSNR of the fitted ones.

    Args:
        draw: The result of a fit.
        capture: What was fitted; it has held-out views.
    """
    held_out = capture.test
    assert held_out is not None  # `open_capture` refuses captures without
    drawn = draw(held_out.cameras)
    figures = {f"test_{name}": value for name, value in compare(drawn, held_out.images).items()}
    each = metrics.psnr(jnp.asarray(composite(drawn)), jnp.asarray(composite(held_out.images)))
    train = compare(draw(capture.cameras), capture.images)
    return figures | {"worst_test_psnr": float(jnp.min(each)), "train_psnr": train["psnr"]}


def run_fit(values: flags.FlagValues, capture: Capture, seed: int, run: str, report: Report) -> dict[str, Any]:
    """The line of one fit.

    Args:
        values: The flags.
        capture: What is fitted.
        seed: Of all that is random.
        run: One of `RUNS`.
        report: Takes the progress.
    """
    config = config_of(values, capture, run)
    line = {"data": pathlib.Path(values.data).resolve().name, "run": run, "seed": seed, "steps": values.steps}
    line |= {"views": len(capture.images), "width": capture.cameras.width, "height": capture.cameras.height}
    line |= {"sh_degree": values.sh_degree, "use_masks": values.use_masks}
    if run in STRATEGIES:
        figures, draw = fit_ours(capture, config, seed, report)
        return line | figures | judge(draw, capture)
    from experiments.benchmarks import gsplat_fit  # needs packages that ours does without

    figures, draw = gsplat_fit.fit_gsplat(
        capture,
        steps=values.steps,
        seed=seed,
        sh_degree=values.sh_degree,
        count=config.initial,
        report=report,
        start=values.gsplat_start,
        reset=values.gsplat_reset,
    )
    return line | figures | judge(draw, capture)


def run(values: flags.FlagValues) -> None:
    """Does every fit of the flags, and prints its line.

    Raises:
        InputError: A flag or a capture that cannot be used; nothing has been fitted then.
    """
    fits = parse_fits(values)
    with_gsplat = any(run == "gsplat" for _, run in fits)
    if with_gsplat:
        check_gsplat()
    lines = Lines(values.out)
    environment.start_jax()
    capture = open_capture(values, with_gsplat)
    printer = ProgressPrinter()
    for seed, run in fits:
        with printer.stage(f"{run}, seed {seed}") as report:
            line = run_fit(values, capture, seed, run, report)
        lines.write(line | machine())


PROGRAM = Program("benchmarks.captures", define_flags, run, "the lines of finished fits are printed")


if __name__ == "__main__":
    PROGRAM.start()
