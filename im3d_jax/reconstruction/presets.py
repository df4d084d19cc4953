"""Settings of a fit, and the presets for generated views and for captures."""

import dataclasses
from typing import Literal

from splat.density import DensityConfig


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Everything a fit depends on besides its data; static under jit.

    The loss is the sum of the terms with their weights, each a mean over the views of a step. Rates are those
    of Adam; those of the means are multiplied by the extent and fall exponentially from the first value to
    the second over `steps`.

    Attributes:
        steps: Length of the whole fit.
        views_per_step: Views rendered in one step.
        capacity: Rows for gaussians.
        initial: Gaussians at the start.
        initial_radius: Radius of the ball they fill, in units of the extent.
        initial_opacity: Their opacity.
        sh_degree: Degree of the spherical harmonics, 0 to 4.
        sh_every: Steps after which one more degree is freed; 0 frees all at once.
        densify_every: Steps between two calls of the density control.
        densify_from: First step at which it may run.
        densify_until: It runs before this step only.
        density: Its rules.
        reset_opacity_every: Steps between two opacity resets; 0 for none.
        perceptual_weight: Of the perceptual distance (10 in IM-3D, eq. 5).
        ssim_weight: Of 1 - MS-SSIM (0.2 in IM-3D), or of 1 - SSIM.
        multiscale: MS-SSIM rather than SSIM.
        mask_weight: Of the mean squared error of alpha (1 in IM-3D).
        l1_weight: Of the mean absolute colour error.
        colour_weight: Of the mean squared error of colours averaged over `colour_block` squared pixels.
        colour_block: Edge of those blocks in pixels.
        background: 'random' composites the SSIM and L1 terms on a new colour each step, 'white' on white.
        lr_means: First and last rate of the means, per unit of extent.
        lr_quats: Rate of the quaternions.
        lr_scales: Rate of the log scales.
        lr_opacities: Rate of the opacity logits.
        lr_sh: Rate of the first spherical harmonic; the others take a twentieth.
        extent: Size of the scene in world units; None measures it from the cameras.
    """

    steps: int = 1200
    views_per_step: int = 1
    capacity: int = 10_000
    initial: int = 5_000
    initial_radius: float = 0.5
    initial_opacity: float = 0.1
    sh_degree: int = 0
    sh_every: int = 0
    densify_every: int = 50
    densify_from: int = 100
    densify_until: int = 1000
    density: DensityConfig = DensityConfig(
        gradient_threshold=0.0, growth=0.08, split_scale=0.03, min_opacity=0.02, max_scale=0.2
    )
    reset_opacity_every: int = 0
    perceptual_weight: float = 10.0
    ssim_weight: float = 0.2
    multiscale: bool = True
    mask_weight: float = 1.0
    l1_weight: float = 0.0
    colour_weight: float = 0.0
    colour_block: int = 8
    background: Literal["random", "white"] = "random"
    lr_means: tuple[float, float] = (5e-3, 1e-4)
    lr_quats: float = 5e-3
    lr_scales: float = 5e-3
    lr_opacities: float = 5e-2
    lr_sh: float = 1e-2
    extent: float | None = 1.0

    def __post_init__(self):
        if self.initial > self.capacity or self.initial < 1:
            raise ValueError(
                f"got initial={self.initial} and capacity={self.capacity}; expected 1 <= initial <= capacity"
            )
        if self.steps < 1 or self.views_per_step < 1 or self.densify_every < 1:
            raise ValueError(
                f"got steps={self.steps}, views_per_step={self.views_per_step}, "
                f"densify_every={self.densify_every}; expected at least 1 each"
            )


_STANDARD = FitConfig()

PRESETS: dict[str, FitConfig] = {
    "draft": dataclasses.replace(_STANDARD, steps=300, densify_every=25, densify_from=25, densify_until=250),
    "standard": _STANDARD,
    "best": dataclasses.replace(_STANDARD, steps=2400, views_per_step=2, densify_until=2000),
    # Kerbl et al.'s rates; a tenth of their steps wants means that start faster (+0.4 dB, held-out views).
    "capture": FitConfig(
        steps=3000,
        capacity=40_000,
        initial=10_000,
        initial_radius=1.0,
        sh_degree=2,
        sh_every=500,
        densify_every=100,
        densify_from=200,
        densify_until=2000,
        density=DensityConfig(
            gradient_threshold=2e-4, growth=0.5, split_scale=0.01, min_opacity=0.005, max_scale=0.1
        ),
        perceptual_weight=0.0,
        ssim_weight=0.2,
        multiscale=False,
        mask_weight=0.0,
        l1_weight=0.8,
        background="white",
        lr_means=(6e-4, 6e-6),
        lr_quats=1e-3,
        lr_scales=5e-3,
        lr_opacities=5e-2,
        lr_sh=2.5e-3,
        extent=None,
    ),
}
