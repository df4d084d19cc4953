"""How assets are made with foreign video models: their rigs, sampling, refinement, the fit, and memory presets.

What is published (frames, sizes, guidance, sigmas) stands in `weights.presets`; here stands this project's choice.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from im3d_jax.reconstruction import PRESETS, FitConfig
from im3d_jax.reconstruction.orbits import Search


@dataclasses.dataclass(frozen=True)
class Rig:
    """Where the cameras of a family's orbits stand.

    Attributes:
        fov_deg: Horizontal field of view; SV3D's training renders had 33.8 degrees (arXiv 2403.12008, section 3).
        distance: Of the cameras from the origin. It is free up to the asset's scale; at 3.44 the unit sphere just fits.
        elevation_deg: Where the search for the elevation starts.
        direction: Of turning, seen from above; ``auto`` fits both.
    """

    fov_deg: float = 33.8
    distance: float = 3.44
    elevation_deg: float = 10.0
    direction: Literal["auto", "ccw", "cw"] = "auto"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Solver steps of the orbit and of each refinement, and which solver takes them."""

    views: int
    refine: int
    solver: Literal["euler", "dpmpp"] = "euler"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """From a picture to an asset with one family of video models.

    Attributes:
        rig: The cameras.
        target_fraction: Longer side of the prepared object's box over the picture's.
        refine_sigmas: Noise scale at which each refinement starts, on latents of unit variance; the last one serves all
            later rounds. IM-3D publishes no level: chosen so that shape stays and texture is drawn anew.
        fit_side: Longest side of the views that the fit sees, pixels.
        search: How elevation and direction are found.
    """

    rig: Rig = Rig()
    target_fraction: float = 0.9
    refine_sigmas: tuple[float, ...] = (2.0, 1.0)
    fit_side: int = 512
    search: Search = Search()


# SVD itself draws no orbits; checkpoints fine-tuned on them (SVD-MV) keep its layout.
RECIPES = {family: Recipe() for family in ("svd", "svd_xt", "sv3d_u", "sv3d_p")}


def sampling(authors_steps: int, quality: str) -> Sampling:
    """Sampling of a quality: the authors' own steps at `standard` and `best`."""
    return {
        "draft": Sampling(max(1, authors_steps * 2 // 5), 5, "dpmpp"),
        "standard": Sampling(authors_steps, 10),
        "best": Sampling(authors_steps, 20),
    }[quality]


def fit_config(quality: str) -> FitConfig:
    """The fit of 512² views: IM-3D's steps with four views in each and room for finer gaussians."""
    base = PRESETS[quality]
    initial, capacity = {"draft": (5_000, 20_000), "standard": (10_000, 60_000), "best": (10_000, 100_000)}[quality]
    return dataclasses.replace(
        base,
        views_per_step=4,
        initial=initial,
        capacity=capacity,
        strategy=dataclasses.replace(base.strategy, growth=0.11),
        # Their rigs are found, not given: where cameras are a degree off, masks would cut into the object.
        outside_views=0,
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """What is done at once on a device.

    Attributes:
        name: Of the preset.
        gib: Of the device it is meant for.
        frames_at_once: Most frames that the autoencoder holds at full width.
        branches_together: Both branches of guidance in one network call.
        keep: Networks stay on the device between stages; otherwise each is read when a stage needs it and freed after.
    """

    name: str
    gib: float
    frames_at_once: int
    branches_together: bool
    keep: bool


MEMORIES = {
    memory.name: memory
    for memory in (
        Memory("16gb", 16.0, 1, False, False),
        Memory("24gb", 24.0, 3, True, False),
        # Three frames fill a large device as well as seven do.
        Memory("80gb", 80.0, 3, True, True),
    )
}


def frames_at_once(frames: int, most: int) -> int:
    """The largest divisor of the frames that is not above `most`: no frame is computed twice."""
    return max(count for count in range(1, most + 1) if frames % count == 0)
