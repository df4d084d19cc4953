"""A model that draws without networks, and fits short enough for tests."""

import dataclasses

import numpy as np
import pytest

from im3d_jax.cli import stages
from im3d_jax.reconstruction import fitting


class DrawnByHand:
    """Has `Pipeline`'s methods; draws coloured discs and counts what is asked of it."""

    name, remark, perceptual_name = "by hand", "", "none"
    image_size, num_views, target_fraction = 24, 16, 0.5
    features = recipe = memory = None
    said = ()

    def __init__(self):
        self.calls = []

    def unknown_words(self, prompt):
        return [word for word in prompt.split() if word == "xyzzy"]

    def lost_text(self, prompt):
        return " ".join(prompt.split()[6:])

    def vocabulary(self):
        return {"mug": ["cup", "tea cup"], "red": []}

    def estimate_elevation(self, views):
        self.calls.append("elevation")
        assert views.shape == (16, 24, 24, 4)
        return 0.25

    def draw_image(self, prompt, *, seed, quality, progress):
        self.calls.append("image")
        progress(1, 1, "")
        return self._disc(0, seed), 8

    def draw_views(self, image, prompt, *, seed, quality, progress):
        self.calls.append("views")
        assert image.shape == (24, 24, 4)
        progress(1, 1, "")
        return np.stack([self._disc(frame, seed) for frame in range(16)]), 24

    def refine(self, renders, image, prompt, *, round, seed, quality, progress):
        self.calls.append(f"refine {round}")
        assert renders.shape == (16, 24, 24, 4) and np.isfinite(renders).all()
        progress(1, 1, "")
        return np.clip(renders + 0.01 * round, 0, 1), 9

    def _disc(self, frame, seed):
        y, x = np.mgrid[:24, :24] - 11.5
        image = np.zeros((24, 24, 4), np.float32)
        image[..., :3] = 0.2 + 0.03 * frame, 0.5, 0.1 + 0.01 * seed
        image[..., 3] = np.clip(7.5 - np.hypot(x, y), 0, 1)
        return image


@pytest.fixture
def model():
    return DrawnByHand()


@pytest.fixture
def short_fits(monkeypatch):
    """One preset of a few steps on a few gaussians for everything, and small turntables: few compilations."""
    config = dataclasses.replace(
        fitting.PRESETS["draft"],
        steps=12,
        capacity=192,
        initial=128,
        densify_every=6,
        densify_from=6,
        densify_until=11,
        multiscale=False,
    )
    for name in ("draft", "standard", "capture"):
        monkeypatch.setitem(fitting.PRESETS, name, config)
    monkeypatch.setattr(stages, "TURNTABLE_SIDE", 24)
    monkeypatch.setattr(stages, "TURNTABLE_FRAMES", 8)


@pytest.fixture
def by_hand(monkeypatch, model, short_fits, tmp_path):
    """The commands run with this model, a quick fit and a compilation cache of their own."""
    from im3d_jax.cli import common

    monkeypatch.setenv("IM3D_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(common, "load_model", lambda name: model)
    monkeypatch.setattr(common, "start_jax", lambda: None)
    return model
