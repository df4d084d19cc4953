"""Checkpoints of very small SV3D-like and Stable-Diffusion-like networks with random weights, in both layouts."""

import dataclasses
import json

from im3d_jax.pipelines import svd
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.reconstruction import FitConfig
from im3d_jax.reconstruction.orbit_search import Search
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.miniature import TOKENS, miniature, write_miniature
from im3d_jax.weights.presets import PRESETS


SEARCH = Search(
    side=16, steps=4, more=2, warm=1, fit=dataclasses.replace(Search().fit, capacity=64, initial=64, views_per_step=2)
)
FIT = FitConfig(
    steps=12, capacity=192, initial=128, densify_every=6, densify_from=6, densify_until=11, multiscale=False,
    views_per_step=2, outside_views=2,
)  # fmt: skip
FAMILIES = ("sv3d_u", "sv3d_p", "svd", "svd_xt", "sd15")


def write_all(folder):
    """{name: path}: files of sv3d_u, sv3d_p and svd; `folder`, sv3d_u for diffusers; `sd` with its tokenizer."""
    made = {
        family: write_miniature(folder / f"{family}.safetensors", miniature(family))
        for family in ("sv3d_u", "sv3d_p", "svd")
    }
    made["folder"] = folder / "sv3d"
    convert_checkpoint(open_checkpoint(made["sv3d_u"], preset=miniature("sv3d_u")), "diffusers", made["folder"])
    pictures = folder / "sd"
    pictures.mkdir()
    made["sd"] = write_miniature(pictures / "sd15.safetensors", miniature("sd15"))
    tokens = {token: number for number, token in enumerate(TOKENS)}
    (pictures / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens, "merges": []}}))
    return made


def shortened(settings):
    """Settings of an orbit with a short search and a short fit."""
    return dataclasses.replace(settings, fit=FIT, fit_side=24, search=SEARCH)


def tables():
    """(table, {name: entry}) of all that makes `im3d_jax.load` open these checkpoints, with short searches and fits."""
    yield PRESETS, {family: miniature(family) for family in FAMILIES}
    yield svd.QUALITIES, {quality: shortened(settings) for quality, settings in svd.QUALITIES.items()}


class ShortOrbitModel(svd.OrbitModel):
    """An `OrbitModel` with short searches and fits."""

    def view_settings(self, quality):
        return shortened(super().view_settings(quality))


def open_small(path, family, memory="80gb"):
    """The model of a small checkpoint, whatever the tables say."""
    return ShortOrbitModel(CheckpointSource(open_checkpoint(path, preset=miniature(family))), MEMORIES[memory])
