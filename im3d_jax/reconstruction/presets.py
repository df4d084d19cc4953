"""Settings of a fit, and those for captures; the models' qualities hold those for drawn views."""

import dataclasses
from typing import Literal

from im3d_jax.choices import Start
from splat.strategies import DefaultStrategy, McmcStrategy, Strategy


# Names that `capture_config` takes.
STRATEGIES = ("default", "mcmc")


# Views of one object in the unit sphere: densification picks a share of the rows instead of a gradient threshold.
DRAWN_VIEWS_STRATEGY = DefaultStrategy(
    gradient_threshold=0.0, growth=0.08, split_scale=0.03, min_opacity=0.02, max_scale=0.2
)


@dataclasses.dataclass(frozen=True)
class HullStart:
    """A start on the surface of the views' visual hull, with the views' colours.

    The density control leaves such a fit alone: it has its gaussians where they are needed, and with more of them it
    takes longer and comes no closer to the views.

    Attributes:
        count: Most gaussians at the start.
        opacity: Theirs, in (0, 1).
        width: Their standard deviation along the surface, in units of the distance to their neighbours.
        thickness: That across the surface, in the same units.
        against: Most views that must exclude a point from the hull: one, and more where single views cut off what the
            others show.
    """

    count: int = 10_000
    opacity: float = 0.7
    width: float = 0.8
    thickness: float = 0.1
    against: int = 3


@dataclasses.dataclass(frozen=True)
class PictureStart:
    """A start on the surfaces that a plane sweep of opaque pictures finds, before a shell with the rest's colours.

    Attributes:
        count: Most gaussians on surfaces.
        shell: Gaussians of a whole shell; those that no view sees are left out.
        opacity: Of all, in (0, 1).
        width: Their standard deviation along the surface, in units of the distance to their neighbours.
        thickness: That across the surface, in the same units.
    """

    count: int = 40_000
    shell: int = 6_000
    opacity: float = 0.7
    width: float = 0.7
    thickness: float = 0.2


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
        initial_scale: Factor on their size, which is about the distance to their neighbours.
        hull: Start on the surface of the visual hull instead of in a ball, where the views have one; None: never.
        pictures: Start on the surfaces that opaque pictures show, where a plane sweep finds enough; None: never.
        sh_degree: Degree of the spherical harmonics, 0 to 4.
        sh_every: Steps after which one more degree is freed; 0 frees all at once.
        densify_every: Steps between two calls of the density control.
        densify_from: First step at which it may run.
        densify_until: It runs before this step only.
        strategy: Rules of the density control: `DefaultStrategy` clones, splits, prunes and resets opacities (Kerbl et
            al. 2023), the latter as long as the density control runs; `McmcStrategy` relocates, grows and adds noise
            (Kheradmand et al. 2024) and never prunes.
        check_every: Most steps between two looks at the loss and at the room for pairs.
        pair_margin: Room for pairs beyond those counted, as a share of them, whenever it is made larger.
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
        lr_poses: Rate of the cameras' poses, in radians and in units of the extent; 0 holds them.
        extent: Size of the scene in world units; None measures it from the cameras.
        outside_views: After the last step those gaussians go whose centre is in front of background (by the views'
            alpha, a pixel away from the object) in at least so many views: the haze that generated views leave in
            the air where they disagree. 0 keeps all.
        least_pull: After the last step those gaussians get their neighbours' colours at whose colours the views pulled
            less than this, in units of the median (`unseen.pull`): undersides. 0 leaves all as they are.
    """

    steps: int = 1200
    views_per_step: int = 1
    capacity: int = 10_000
    initial: int = 5_000
    initial_radius: float = 0.5
    initial_opacity: float = 0.1
    initial_scale: float = 1.0
    hull: HullStart | None = None
    pictures: PictureStart | None = None
    sh_degree: int = 0
    sh_every: int = 0
    densify_every: int = 50
    densify_from: int = 100
    densify_until: int = 1000
    strategy: Strategy = DRAWN_VIEWS_STRATEGY
    check_every: int = 50
    pair_margin: float = 0.25
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
    lr_poses: float = 0.0
    extent: float | None = 1.0
    outside_views: int = 0
    least_pull: float = 0.0

    def __post_init__(self):
        if self.initial > self.capacity or self.initial < 1:
            raise ValueError(
                f"got initial={self.initial} and capacity={self.capacity}; expected 1 <= initial <= capacity"
            )
        if self.hull is not None and not 1 <= self.hull.count <= self.capacity:
            raise ValueError(f"got hull.count={self.hull.count}; expected 1 to capacity={self.capacity}")
        if self.pictures is not None and not 1 <= self.pictures.count + self.pictures.shell <= self.capacity:
            raise ValueError(
                f"got pictures.count={self.pictures.count} and pictures.shell={self.pictures.shell}; "
                f"expected 1 to capacity={self.capacity} in all"
            )
        if min(self.steps, self.views_per_step, self.densify_every, self.check_every) < 1:
            raise ValueError(
                f"got steps={self.steps}, views_per_step={self.views_per_step}, densify_every={self.densify_every}, "
                f"check_every={self.check_every}; expected at least 1 each"
            )
        if self.outside_views < 0:
            raise ValueError(f"got outside_views={self.outside_views}; expected a number of views, or 0 to keep all")
        if not isinstance(self.strategy, Strategy):
            raise ValueError(
                f"got strategy={self.strategy!r}; expected an object such as splat.strategies.McmcStrategy()"
            )


def with_start(config: FitConfig, start: Start) -> FitConfig:
    """Settings of a fit that starts elsewhere.

    Args:
        config: The fit's settings.
        start: ``hull``, ``ball``, or ``auto`` for what the settings say.
    """
    if start == "auto" or (start == "hull") == (config.hull is not None):
        return config
    hull = HullStart()
    hull = dataclasses.replace(hull, count=min(hull.count, config.capacity))
    return dataclasses.replace(config, hull=hull if start == "hull" else None)


def capture_config(
    steps: int = 3000,
    *,
    strategy: str = "default",
    sh_degree: int = 3,
    random_background: bool = False,
    refine_poses: bool = False,
    capacity: int = 40_000,
    pictures: bool = False,
) -> FitConfig:
    """The preset for pictures of real or rendered scenes: L1 + SSIM, one view a step.

    Rates are Kerbl et al.'s (2023), as gsplat's `simple_trainer` has them. Periods and the rate of the means are
    for 7,000 steps and more, and follow the number of steps below: short runs move further in each step, and their
    density control and harmonics take the same share of the run.

    Args:
        steps: Length of the fit, at least 1.
        strategy: One of `STRATEGIES`.
        sh_degree: 0 to 4.
        random_background: Composite both images on a new colour each step, for objects with alpha.
        refine_poses: Let the poses of the cameras move.
        capacity: Most gaussians.
        pictures: Start on the surfaces that a plane sweep finds: for opaque pictures of a whole scene.

    Raises:
        ValueError: The strategy is unknown, or a number is out of range.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"got strategy={strategy!r}; expected one of {', '.join(STRATEGIES)}")
    mcmc = strategy == "mcmc"
    first = 1.6e-4 * max(1.0, (30_000 / max(steps, 1000)) ** 0.5)
    return FitConfig(
        steps=steps,
        capacity=capacity,
        initial=min(capacity, 10_000),
        initial_radius=1.0,
        initial_opacity=0.5 if mcmc else 0.1,
        initial_scale=0.5 if mcmc else 1.0,
        pictures=picture_start(capacity) if pictures else None,
        sh_degree=sh_degree,
        sh_every=max(1, min(1000, steps // (sh_degree + 4))),
        densify_every=max(1, min(100, steps // 30)),
        densify_from=min(500, steps // 10),
        densify_until=min(15_000, steps * 7 // 10),
        strategy=McmcStrategy(cap=capacity) if mcmc else _capture_strategy(steps),
        check_every=100,
        pair_margin=1.0,
        perceptual_weight=0.0,
        ssim_weight=0.2,
        multiscale=False,
        mask_weight=0.0,
        l1_weight=0.8,
        background="random" if random_background else "white",
        lr_means=(first, first / 100),
        lr_quats=1e-3,
        lr_scales=5e-3,
        lr_opacities=5e-2,
        lr_sh=2.5e-3,
        # Adam moves a pose seen in one of V steps by about sqrt(V) rates at each: about 0.3 / sqrt(V) in all.
        lr_poses=0.3 / steps if refine_poses else 0.0,
        extent=None,
    )


def picture_start(capacity: int) -> PictureStart:
    """A start that leaves half of the rows to the density control."""
    usual = PictureStart()
    shell = min(usual.shell, capacity // 10)
    return dataclasses.replace(usual, count=min(usual.count, max(1, capacity // 2 - shell)), shell=shell)


def _capture_strategy(steps: int) -> DefaultStrategy:
    """The default strategy's rules for a capture."""
    return DefaultStrategy(
        gradient_threshold=2e-4,
        # Gradients are large at the start: without a limit a short run spends its rows before it knows where to.
        growth=1.0 if steps >= 7000 else 0.2,
        split_scale=0.01,
        min_opacity=0.005,
        max_scale=0.1,
        # After the last reset there must be time for what was dimmed to come back.
        reset_every=3000 if steps >= 7000 else 0,
    )
