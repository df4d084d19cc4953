"""What models offer: every method of the Protocols, with the same signature, in every implementation."""

import dataclasses
import inspect
import typing

import pytest

from im3d_jax.pipelines import Pipeline, base, load
from im3d_jax.pipelines.bundle import BundleModel
from im3d_jax.pipelines.stable_diffusion import StableDiffusion
from im3d_jax.pipelines.svd import OrbitModel
from im3d_jax.weights import load_bundle
from tests.fake_model import FakeModel
from tests.small_checkpoints import open_small


IMPLEMENTATIONS = [
    (base.ViewModel, BundleModel),
    (base.ViewModel, OrbitModel),
    (base.ViewModel, FakeModel),
    (base.PictureModel, BundleModel),
    (base.PictureModel, StableDiffusion),
    (base.PictureModel, FakeModel),
]
BY_NAME = [f"{protocol.__name__}-{model.__name__}" for protocol, model in IMPLEMENTATIONS]


def methods(protocol):
    """{name: function} of a Protocol and of those that it extends."""
    found = {}
    for each in protocol.__mro__:
        if getattr(each, "_is_protocol", False):
            found |= {name: value for name, value in vars(each).items() if inspect.isfunction(value)}
    return {name: value for name, value in found.items() if not name.startswith("_")}


def attributes(protocol):
    """{name: type} of what a Protocol asks for beside methods."""
    return typing.get_type_hints(protocol)


@pytest.mark.parametrize("protocol, model", IMPLEMENTATIONS, ids=BY_NAME)
def test_methods_have_the_protocols_signature(protocol, model):
    """Names, order, kinds and defaults of all parameters; types only where the family has its own settings."""
    assert len(methods(protocol)) >= 6
    for name, expected in methods(protocol).items():
        wanted, found = (inspect.signature(method) for method in (expected, getattr(model, name)))
        as_rows = [
            [(each.name, each.kind, each.default) for each in signature.parameters.values()]
            for signature in (wanted, found)
        ]
        assert as_rows[0] == as_rows[1], f"{model.__name__}.{name}"
        for parameter, own in zip(wanted.parameters.values(), found.parameters.values(), strict=True):
            if parameter.name not in ("self", "settings", "direction"):
                assert own.annotation == parameter.annotation, f"{model.__name__}.{name}: {parameter.name}"


@pytest.fixture(scope="module")
def models(bundle, checkpoints):
    return [BundleModel(load_bundle(bundle)), open_small(checkpoints["sv3d_u"], "sv3d_u"), FakeModel()]


def test_attributes_have_the_protocols_types(models):
    for model in models:
        for name, kind in attributes(base.ViewModel).items():
            value = getattr(model, name)
            if kind in (str, int, float, bool):
                assert type(value) is kind, f"{model.name}.{name}"
        assert set(model.directions) <= set(typing.get_args(base.Direction)) and model.directions
        assert model.memory is None or isinstance(model.memory, str)


def test_every_quality_has_settings_that_decide_by_json(models):
    for model in models:
        for quality in typing.get_args(base.Quality):
            settings = model.view_settings(quality)
            assert dataclasses.is_dataclass(settings) and settings.__dataclass_params__.frozen
            assert settings.fit.steps >= 1 and (settings.fit_side is None or settings.fit_side > 0)
            assert hash(settings) == hash(model.view_settings(quality))


def test_pipelines_say_who_reads_and_who_draws():
    views, pictures = FakeModel(), FakeModel()
    assert not Pipeline(views).prepares_pictures and not Pipeline(views, views).prepares_pictures
    assert Pipeline(views, pictures).prepares_pictures and Pipeline(views, pictures).name == "fake"
    assert Pipeline(views).vocabulary() == {"mug": ["cup", "tea cup"], "red": []}


def test_batches():
    assert base.Batch(None, 3).fill("ab") == ["a", "b", "b"] and base.ONE.fill("ab") == ["a", "b"]
    for tasks in ("", "abcd"):
        with pytest.raises(ValueError, match=f"expected 1 to 3 tasks, got {len(tasks)}"):
            base.Batch(None, 3).fill(tasks)


def test_the_bundled_model_is_found_by_its_name():
    pipeline = load()
    assert pipeline.name == "tiny" and pipeline.views is pipeline.pictures
    assert pipeline.views.identity(elevation_known=False)["name"] == "tiny"
