"""SVD and SV3D in miniature, with random weights and no files; searches and fits short enough for tests."""

import dataclasses

from experiments.benchmarks.random_models import RandomSource
from im3d_jax.models.clip import CLIPVisionConfig
from im3d_jax.pipelines import svd
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.reconstruction import FitConfig
from im3d_jax.reconstruction.orbit_search import Search
from im3d_jax.weights.presets import PRESETS


SIDE, VIEWS = 32, 5
VISION = CLIPVisionConfig(width=16, layers=1, heads=2, hidden=32, projection=6, image_size=8, patch=4)
SEARCH = Search(
    side=16, steps=4, more=2, warm=1, fit=dataclasses.replace(Search().fit, capacity=64, initial=64, views_per_step=2)
)
FIT = FitConfig(
    steps=12, capacity=192, initial=128, densify_every=6, densify_from=6, densify_until=11, multiscale=False,
    views_per_step=2,
)  # fmt: skip


def tiny_preset(family="sv3d_u"):
    """The family's preset in miniature."""
    preset = PRESETS[family]
    unet = dataclasses.replace(
        preset.unet,
        channels=(8, 16),
        groups=4,
        layers_per_block=(1, 1),
        attention=(True, False),
        heads=(1, 2),
        context_dims=(6,),
        down_eps=(1e-5,) * 2,
        up_eps=(1e-5,) * 2,
        vector_dims=(4, 8, 8) if "polar" in preset.vector else (4,) * len(preset.vector),
    )
    autoencoder = dataclasses.replace(preset.autoencoder, channels=(8, 16), groups=4, layers_per_block=1)
    sizes = {"frames": VIEWS, "height": SIDE, "width": SIDE, "steps": 4}
    return dataclasses.replace(preset, unet=unet, autoencoder=autoencoder, image_encoder=VISION, **sizes)


class ShortFits:
    """Of any model of these families: short fits and searches for every quality."""

    def view_settings(self, quality):
        return dataclasses.replace(super().view_settings(quality), fit=FIT, fit_side=24, search=SEARCH)


class TinyOrbits(ShortFits, svd.OrbitModel):
    """An `OrbitModel` in miniature."""


def tiny_orbits(family="sv3d_u", memory="80gb", kind=TinyOrbits):
    """Random weights of a family, ready to draw."""
    return kind(RandomSource(tiny_preset(family)), MEMORIES[memory])
