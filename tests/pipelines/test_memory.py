"""Memory presets: estimates at true size, and which preset a device gets."""

import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.pipelines import memory, svd
from im3d_jax.weights.presets import PRESETS


def peaks_of(each):
    """GiB of each stage of SV3D in bfloat16 with the fit of `standard`."""
    preset, settings = PRESETS["sv3d_u"], svd.QUALITIES["standard"]
    assert (preset.height, settings.fit_side) == (576, 512)
    return memory.estimate(preset, each, 2, (576, 576), settings.fit, settings.fit_side)


PEAKS = {name: max(peaks_of(each).values()) for name, each in memory.MEMORIES.items()}


def choose(name, room):
    return memory.choose(name, "sv3d_u", peaks_of, room=room).name


def test_presets_fit_the_devices_that_they_are_named_after():
    assert PEAKS["16gb"] < PEAKS["24gb"] < PEAKS["80gb"]
    for name, each in memory.MEMORIES.items():
        assert PEAKS[name] < each.gib
    assert set(peaks_of(memory.MEMORIES["16gb"])) == {"encoder", "unet", "decoder", "fit"}


def test_the_roomiest_preset_that_fits():
    between = (PEAKS["16gb"] + PEAKS["24gb"]) / 2 / memory.SHARE_OF_DEVICE
    assert choose(None, between) == "16gb" and choose("16gb", 75.0) == "16gb" and choose(None, 75.0) == "80gb"


def test_the_preset_that_fits_is_named():
    between = (PEAKS["16gb"] + PEAKS["24gb"]) / 2 / memory.SHARE_OF_DEVICE
    with pytest.raises(WeightsError, match=r"sv3d_u with --memory=80gb needs about \d+\.\d GiB.*use --memory=16gb"):
        choose("80gb", between)
    with pytest.raises(WeightsError, match=r"--memory=16gb needs .* there are 1.0 GiB: use a machine with more memory"):
        choose(None, 1.0)
    with pytest.raises(WeightsError, match="memory=8gb: expected one of 16gb, 24gb, 80gb"):
        choose("8gb", 75.0)


def test_a_device_that_does_not_say():
    assert choose(None, None) == "80gb" and choose("24gb", None) == "24gb"
