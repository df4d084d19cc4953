"""Opening models by path: which family, and one line for each that cannot be opened."""

import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.pipelines import bundle as bundles
from im3d_jax.pipelines import fit_settings, load, open_model, svd
from im3d_jax.pipelines.stable_diffusion import StableDiffusion


def test_a_bundle_draws_both(bundle):
    views, pictures = open_model(bundle)
    assert isinstance(views, bundles.BundleModel) and views is pictures and load(bundle).name == views.name
    assert repr(load("tiny")) == "Pipeline(views=tiny, pictures=tiny)"


@pytest.mark.usefixtures("small")
def test_families_by_their_files(checkpoints):
    for name in ("sv3d_u", "sv3d_p", "svd", "folder"):
        views, pictures = open_model(str(checkpoints[name]))
        assert isinstance(views, svd.OrbitModel) and pictures is None
    views, pictures = open_model(str(checkpoints["sd"]))
    assert views is None and isinstance(pictures, StableDiffusion)
    both = load(str(checkpoints["folder"]), image_model=str(checkpoints["sd"]), memory="24gb")
    assert both.views.memory == "24gb" and both.prepares_pictures and both.vocabulary() == {}
    assert load(str(checkpoints["folder"]), image_model="tiny").pictures.name == "tiny"


@pytest.mark.usefixtures("small")
def test_refusals_name_what_was_given(checkpoints, bundle, tmp_path):
    video, pictures = str(checkpoints["folder"]), str(checkpoints["sd"])
    for arguments, message in (
        ((pictures,), "draws no orbits: --model expects a bundle or weights of svd, svd_xt, sv3d_u, sv3d_p"),
        (
            (video, video),
            "draws no pictures from prompts: --image_model expects Stable Diffusion 1.5 or 2.1, or tiny",
        ),
        (("",), "--model is empty"),
        (("tiny", ""), "--image_model is empty"),
        ((str(tmp_path / "none"),), "no such folder"),
    ):
        with pytest.raises(WeightsError, match=message) as raised:
            load(arguments[0], image_model=arguments[1] if len(arguments) > 1 else None)
        assert "\n" not in str(raised.value)
    with pytest.raises(WeightsError, match="has no memory presets; remove --memory=16gb"):
        load(bundle, memory="16gb")


def test_fits_of_views_whose_model_is_not_there():
    assert fit_settings("bundle", "draft") == (bundles.QUALITIES["draft"].fit, None)
    config, side = fit_settings("svd", "best")
    assert config == svd.QUALITIES["best"].fit and side == 512
