"""A fit by gsplat's default strategy, with the rates, the schedule and the losses of gsplat's `simple_trainer`.

Imports torch and gsplat, which are no requirements of this project: import this module only where they are installed.
"""

# The packages of the peers stand beside a CUDA build of PyTorch alone.
# pyright: reportMissingImports=false
from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import gsplat
import jax
import numpy as np
import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from scipy.spatial import KDTree

from im3d_jax.data.captures import Capture
from im3d_jax.images.alpha import composite
from im3d_jax.progress import Report
from im3d_jax.reconstruction import initial
from splat import SH_C0, Cameras


# Kerbl et al.'s start for NeRF-synthetic scenes: points of random colours in a cube around the origin.
CUBE_POINTS, CUBE_SIDE = 100_000, 2.6
SH_EVERY = 1000  # steps after which one more degree is freed
SSIM_WEIGHT = 0.2
Rasterize = Callable[..., tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]
Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def find_similarity(device: str) -> tuple[str, Similarity]:
    """The mean SSIM of [B, H, W, 3] images, 11-tap window without padding, and the package that computes it.

    `fused_ssim` (CUDA kernels, which simple_trainer uses) where it is installed, else `pytorch_msssim`.
    """
    if device == "cuda" and importlib.util.find_spec("fused_ssim") is not None:
        fused_ssim = importlib.import_module("fused_ssim").fused_ssim
        return "fused_ssim", lambda a, b: fused_ssim(*_channels_first(a, b), padding="valid")
    from pytorch_msssim import ssim

    return "pytorch_msssim", lambda a, b: ssim(*_channels_first(a, b), data_range=1.0)


def _channels_first(*images: torch.Tensor) -> list[torch.Tensor]:
    return [image.permute(0, 3, 1, 2).contiguous() for image in images]


def start_points(
    start: str, capture: Capture, count: int, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours [n, 3] to start from.

    Args:
        start: ``hull``, where our own fits start: at most `count` grey points inside the visual hull of the masks, or
            in the ball that all cameras see; ``cube``: 100,000 of random colours in a cube.
        capture: The views.
        count: Points in the hull.
        seed: Of the points in the hull.
        rng: Of the points in the cube.
    """
    if start == "hull":
        points = initial.seen_points(jax.random.key(seed), capture.cameras, count, capture.images)
        return points.astype(np.float32), np.full(points.shape, 0.5, np.float32)
    points = (rng.random((CUBE_POINTS, 3)) - 0.5) * CUBE_SIDE
    return points.astype(np.float32), rng.random((CUBE_POINTS, 3)).astype(np.float32)


def make_parameters(
    points: np.ndarray, colours: np.ndarray, *, sh_degree: int, extent: float, steps: int, device: str
) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]:
    """Parameters, their optimizers and the schedule of the means' rate, as simple_trainer makes them.

    Args:
        points: [n, 3] float32.
        colours: [n, 3] float32 in [0, 1].
        sh_degree: Of the spherical harmonics.
        extent: Size of the scene; the means' rate is in units of it.
        steps: After which that rate is a hundredth.
        device: Of the parameters.
    """
    near = KDTree(points).query(points, k=4)[0][:, 1:]
    scales = np.log(np.sqrt((near**2).mean(-1)).clip(1e-7)).astype(np.float32)
    sh = torch.zeros(len(points), (sh_degree + 1) ** 2, 3)
    sh[:, 0] = (torch.from_numpy(colours) - 0.5) / SH_C0
    started = {
        "means": (torch.from_numpy(points), 1.6e-4 * extent),
        "scales": (torch.from_numpy(scales)[:, None].repeat(1, 3), 5e-3),
        "quats": (torch.rand(len(points), 4), 1e-3),
        "opacities": (torch.full((len(points),), math.log(0.1 / 0.9)), 5e-2),
        "sh0": (sh[:, :1], 2.5e-3),
        "shN": (sh[:, 1:], 2.5e-3 / 20),
    }
    params = torch.nn.ParameterDict(
        {name: torch.nn.Parameter(value.clone().to(device)) for name, (value, _) in started.items()}
    )
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([{"params": params[name], "lr": rate, "name": name}], eps=1e-15)
        for name, (_, rate) in started.items()
    }
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], gamma=0.01 ** (1.0 / steps))
    return params, optimizers, schedule


def draw(
    params: torch.nn.ParameterDict,
    poses: torch.Tensor,
    lenses: torch.Tensor,
    size: tuple[int, int],
    degree: int,
    rasterize: Rasterize = gsplat.rasterization,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Draws gaussians on white.

    Args:
        params: From `make_parameters`.
        poses: [V, 4, 4] world to camera.
        lenses: [V, 3, 3] intrinsics.
        size: Width and height, pixels.
        degree: Of the spherical harmonics in use.
        rasterize: As `gsplat.rasterization`.

    Returns:
        Images [V, H, W, 3], and what the strategy needs.
    """
    rgb, _, info = rasterize(
        params["means"],
        params["quats"],
        torch.exp(params["scales"]),
        torch.sigmoid(params["opacities"]),
        torch.cat([params["sh0"], params["shN"]], 1),
        poses,
        lenses,
        *size,
        sh_degree=degree,
        packed=False,
        backgrounds=torch.ones(len(poses), 3, device=poses.device),
    )
    return rgb, info


def fit_gsplat(
    capture: Capture,
    *,
    steps: int,
    seed: int,
    sh_degree: int,
    count: int,
    report: Report,
    start: str = "hull",
    reset: bool = False,
    device: str = "cuda",
    rasterize: Rasterize = gsplat.rasterization,
    strategy: DefaultStrategy | None = None,
) -> tuple[dict[str, Any], Callable[[Cameras], np.ndarray]]:
    """Fits gaussians to the views on white, one view a step in shuffled cycles.

    Args:
        capture: The views; pinhole cameras without distortion.
        steps: Length of the fit.
        seed: Of the start, of the order of the views and of PyTorch.
        sh_degree: Of the spherical harmonics.
        count: Gaussians at the start in the hull.
        report: Takes the progress.
        start: ``hull`` or ``cube``, see `start_points`.
        reset: Whether opacities are reset every 3,000 steps, as `DefaultStrategy` documents. gsplat 1.5.3 writes the
            condition as ``step % self.reset_every == 0 & step > 0``, a chained comparison with ``0 & step`` which
            never holds, so that by itself it never resets them.
        device: Of PyTorch.
        rasterize: As `gsplat.rasterization`.
        strategy: Density control; gsplat's default strategy with its own settings without.

    Returns:
        Figures: `seconds` from the choice of the start to the end of the last step, without the compilation of
        gsplat's kernels; `mean_ms_per_step`, `gaussians`, versions. And a function that draws [V, H, W, 4] images,
        opaque on white, at cameras.
    """
    rng = np.random.default_rng(seed)
    package, similarity = find_similarity(device)
    size = capture.cameras.width, capture.cameras.height
    extent = initial.camera_extent(capture.cameras)

    def on_device(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
        matrices = (cameras.world_to_camera, cameras.intrinsics)
        poses, lenses = (torch.tensor(np.asarray(each), device=device) for each in matrices)
        return poses, lenses

    poses, lenses = on_device(capture.cameras)
    images = torch.tensor(composite(capture.images), device=device)

    def prepare(points: np.ndarray, colours: np.ndarray):
        return make_parameters(points, colours, sh_degree=sh_degree, extent=extent, steps=steps, device=device)

    # The first call compiles gsplat's kernels.
    few = np.eye(4, 3, dtype=np.float32)
    draw(prepare(few, few)[0], poses[:1], lenses[:1], size, sh_degree, rasterize)
    _wait(device)
    torch.manual_seed(seed)
    begun = time.perf_counter()
    params, optimizers, schedule = prepare(*start_points(start, capture, count, seed, rng))
    rules = DefaultStrategy() if strategy is None else strategy
    rules.check_sanity(params, optimizers)
    state = rules.initialize_state(scene_scale=extent)
    order: list[int] = []
    for step in range(steps):
        order = order or rng.permutation(len(images)).tolist()
        view = order.pop()
        true = images[view, None]
        degree = min(step // SH_EVERY, sh_degree)
        drawn, info = draw(params, poses[view, None], lenses[view, None], size, degree, rasterize)
        rules.step_pre_backward(params, optimizers, state, step, info)
        error = torch.nn.functional.l1_loss(drawn, true)
        loss = (1 - SSIM_WEIGHT) * error + SSIM_WEIGHT * (1 - similarity(drawn, true))
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        schedule.step()
        rules.step_post_backward(params, optimizers, state, step, info, packed=False)
        if reset and 0 < step < rules.refine_stop_iter and step % rules.reset_every == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * rules.prune_opa)
        if (step + 1) % 100 == 0:
            report(step + 1, steps, f"{len(params['means'])} gaussians")
    _wait(device)
    seconds = time.perf_counter() - begun
    torch.cuda.empty_cache()  # what comes next may be JAX's

    def render(cameras: Cameras) -> np.ndarray:
        with torch.no_grad():
            # One camera at a time: those of a whole capture need not fit into memory.
            pairs = zip(*on_device(cameras), strict=True)
            rows = [draw(params, pose[None], lens[None], size, sh_degree, rasterize)[0] for pose, lens in pairs]
        rgb = torch.cat(rows).clamp(0, 1).cpu().numpy()
        return np.concatenate([rgb, np.ones_like(rgb[..., :1])], axis=-1)

    return {
        "seconds": seconds,
        "mean_ms_per_step": 1e3 * seconds / steps,
        "gaussians": len(params["means"]),
        "start": start,
        "reset": reset,
        "loss_ssim": package,
        "gsplat": gsplat.__version__,
        "torch": torch.__version__,
    }, render


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
