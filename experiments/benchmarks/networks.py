"""Times foreign networks of true size with random weights; one JSON line a case.

    python -m experiments.benchmarks.networks --case=unet --diffusers
    python -m experiments.benchmarks.networks --case=unet --kernels=10
    python -m experiments.benchmarks.networks --case=decoder --family=svd --frames=21 --side=576 --memory=80gb,16gb
    python -m experiments.benchmarks.networks --case=generate --family=sv3d_u --memory=80gb

`unet`: one evaluation of both guidance branches (batch 2 of 21x72x72 latents for SV3D). `decoder`: all frames of a
video from latents. Both: median and minimum of `--repeats` calls after warm-up, compile time, what the compiled program
asks for, and the arithmetic, counted in the same network without chunks and flash attention, which would hide parts of
it from the count. `--kernels` lists the kernels that take longest; `--frames` and `--side` set sizes of one's own.
`--diffusers` times diffusers' network of the same sizes on the same device in the same run, eager and, with
`--compiled`, under torch.compile.

`generate`: the way from a picture to an asset, twice, the second time with everything compiled; the seconds of each
stage, the peak of device memory, and the estimate that the program makes beforehand. Random networks draw noise, which
is no object to fit: with `--drawn=torus` (the default) the networks draw, and the fit is shown an orbit of a torus.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import im3d_jax
from experiments.benchmarks import profiling
from experiments.benchmarks.diffusers_networks import diffusers_case
from experiments.benchmarks.random_models import RandomSource, ShownTorus
from experiments.benchmarks.timing import Lines, machine, peak_gib, program_gib, require_cuda, timed
from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.errors import InputError
from im3d_jax.models.calls import apply as apply_network
from im3d_jax.models.kl_autoencoder import KLAutoencoder
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.pipelines import Pipeline, Quality, memory, svd
from im3d_jax.pipelines.memory import Memory
from im3d_jax.pipelines.residency import unet_of, working_dtype
from im3d_jax.weights.presets import PRESETS, Preset


CASES = ("unet", "decoder", "generate")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_enum("case", "unet", CASES, "what is timed", flag_values=values)
    flags.DEFINE_list("family", "sv3d_u", "families of presets", flag_values=values)
    flags.DEFINE_list("memory", "80gb", "memory presets", flag_values=values)
    define_integer("frames", None, "in place of the family's", lower_bound=1, flag_values=values)
    define_integer(
        "side", None, "height and width in pixels, in place of the family's", lower_bound=64, flag_values=values
    )
    define_integer("repeats", 10, "timed calls", lower_bound=1, flag_values=values)
    define_integer("kernels", 0, "list so many kernels by time", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("diffusers", False, "time diffusers' networks beside ours", flag_values=values)
    flags.DEFINE_bool("compiled", False, "time diffusers under torch.compile as well", flag_values=values)
    flags.DEFINE_enum("quality", "standard", ("draft", "standard", "best"), "of generate", flag_values=values)
    flags.DEFINE_enum("drawn", "torus", ("torus", "noise"), "what the fit of generate sees", flag_values=values)
    define_integer("rounds", 2, "refinements of generate", lower_bound=0, upper_bound=2, flag_values=values)
    define_path("out", None, "also append the lines to this file", flag_values=values)


def normal(stream: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal inputs: matrix units run faster on zeros than on any real data."""
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), stream), shape)


def timed_program(
    function: Callable[..., Any], plain: Callable[..., Any], arguments: tuple, repeats: int, kernels: int
) -> dict[str, Any]:
    """Times a function.

    Args:
        function: Is timed.
        plain: Computes the same without chunks and fused kernels; its arithmetic is counted.
        arguments: Of both.
        repeats: Timed calls.
        kernels: How many are listed by time; 0 for no list.

    Returns:
        Compile time, memory, times, arithmetic and, if asked for, kernels.
    """
    begun = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    figures: dict[str, Any] = {"compile_s": time.perf_counter() - begun, "program_gib": program_gib(compiled)}
    figures |= timed(lambda: compiled(*arguments), repeats)
    counted = jax.jit(plain).lower(*arguments).cost_analysis()
    assert counted is not None, "JAX counts the arithmetic of what it has lowered"
    tflop = counted["flops"] / 1e12
    figures |= {"tflop": tflop, "tflop_per_s": 1e3 * tflop / figures["median_ms"], "peak_gib": peak_gib()}
    return figures | (profiling.kernels(lambda: compiled(*arguments), kernels) if kernels else {})


def unet_case(preset: Preset, chosen: Memory, *, repeats: int, kernels: int = 0) -> dict[str, Any]:
    """Times one evaluation of both branches, or of one where the memory preset takes them in turn.

    Args:
        preset: Of a family.
        chosen: The memory preset.
        repeats, kernels: See `timed_program`.
    """
    dtype = working_dtype()
    network, config = unet_of(preset, dtype), preset.unet
    rows = 2 if chosen.branches_together else 1
    side = _latent_side(preset)
    arguments = (
        RandomSource(preset).load("unet", dtype),
        normal(0, (rows, preset.frames, *side, config.in_channels)),
        jnp.zeros((rows,)),
        normal(1, (rows, 1, config.context_dims[0])),
        jnp.zeros((rows, len(config.vector_dims))),
    )

    def apply(network: StableUNet, params: dict, *inputs: jax.Array) -> jax.Array:
        return apply_network(network, params, *inputs)

    plain = StableUNet(dataclasses.replace(config, attention_implementation="xla"), dtype)
    shape = {"rows": rows, "frames": preset.frames, "latent": list(side), "dtype": jnp.dtype(dtype).name}
    functions = functools.partial(apply, network), functools.partial(apply, plain)
    return shape | timed_program(*functions, arguments, repeats, kernels)


def decoder_case(preset: Preset, chosen: Memory, *, repeats: int, kernels: int = 0) -> dict[str, Any]:
    """Times all frames of a video from latents, as many at once as the memory preset takes; see `unet_case`."""
    network = KLAutoencoder(preset.autoencoder, working_dtype())
    chunk = memory.frames_at_once(preset.frames, chosen.frames_at_once)
    arguments = (
        RandomSource(preset).load("vae", jnp.float32),
        normal(0, (1, preset.frames, *_latent_side(preset), preset.autoencoder.latent_channels)),
    )

    def decode(at_once: int | None, params: dict, latents: jax.Array) -> jax.Array:
        return apply_network(network, params, latents, at_once, method="decode")

    functions = functools.partial(decode, chunk), functools.partial(decode, None)
    return {"frames": preset.frames, "at_once": chunk} | timed_program(*functions, arguments, repeats, kernels)


def _latent_side(preset: Preset) -> tuple[int, int]:
    return preset.height // preset.autoencoder.factor, preset.width // preset.autoencoder.factor


def generate_case(model: svd.OrbitModel, *, quality: Quality, rounds: int) -> dict[str, Any]:
    """Times two whole runs of one model: the stages of the second, and the first as a whole.

    The first run draws the random parameters as well, where the program would read a checkpoint; the second does so
    only under the memory presets that free a network after its stage.

    Args:
        model: Draws.
        quality: Of the runs.
        rounds: Refinements.
    """
    picture = np.zeros((*[model.image_size] * 2, 4), np.float32)
    inner = slice(model.image_size // 5, -model.image_size // 5)
    picture[inner, inner] = 0.7, 0.2, 0.1, 1.0
    seconds, files = [], {}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / "run"
            begun = time.perf_counter()
            im3d_jax.generate(Pipeline(model), image=picture, quality=quality, rounds=rounds, out=out)
            seconds.append(time.perf_counter() - begun)
            files = {name: json.loads((out / f"{name}.json").read_bytes()) for name in ("timings", "run", "metrics")}
    settings, preset = model.view_settings(quality), model.preset
    sizes = jnp.dtype(working_dtype()).itemsize, (preset.height, preset.width)
    fit_side = min(preset.height, settings.fit_side)
    return {
        "first_run_s": seconds[0],
        "second_run_s": seconds[1],
        "stages_s": files["timings"],
        "network_evaluations": files["run"]["network_evaluations"],
        "gaussians": files["metrics"]["gaussians"],
        "peak_gib": peak_gib(),
        "estimate_gib": memory.estimate(preset, model.memory_preset, *sizes, settings.fit, fit_side),
    }


def preset_of(family: str, frames: int | None = None, side: int | None = None) -> Preset:
    """A family's preset.

    Args:
        family: A key of `PRESETS`.
        frames: In place of its own number.
        side: Height and width in pixels, in place of its own.
    """
    sizes = {"frames": frames, "height": side, "width": side}
    return dataclasses.replace(PRESETS[family], **{name: size for name, size in sizes.items() if size is not None})


def run_case(case: dict[str, str], values: flags.FlagValues) -> dict[str, Any]:
    """The line of one family under one memory preset.

    Args:
        case: `case`, `family` and `memory`.
        values: The other flags.
    """
    preset, chosen = preset_of(case["family"], values.frames, values.side), memory.MEMORIES[case["memory"]]
    if case["case"] == "generate":
        kind = ShownTorus if values.drawn == "torus" else svd.OrbitModel
        figures = generate_case(kind(RandomSource(preset), chosen), quality=values.quality, rounds=values.rounds)
    else:
        measure = unet_case if case["case"] == "unet" else decoder_case
        figures = measure(preset, chosen, repeats=values.repeats, kernels=values.kernels)
    return case | figures


def run(values: flags.FlagValues) -> None:
    """Times every family under every memory preset.

    Raises:
        InputError: An unknown family or memory preset, or a peer that cannot run; nothing has been timed then.
    """
    for flag, known in (("family", PRESETS), ("memory", memory.MEMORIES)):
        if unknown := [name for name in getattr(values, flag) if name not in known]:
            raise InputError(f"--{flag}={unknown[0]}: expected some of {', '.join(known)}")
    if values.diffusers:
        require_cuda("--diffusers", "diffusers")
    environment.start_jax()
    lines = Lines(values.out)
    for family in values.family:
        cases = [{"case": values.case, "family": family, "memory": name} for name in values.memory]
        lines.measure(cases, lambda case: run_case(case, values), dict)
        if values.diffusers and values.case != "generate":
            preset = preset_of(family, values.frames, values.side)
            figures = diffusers_case(values.case, preset, values.repeats, values.compiled)
            lines.write({"case": values.case, "family": family, **figures, **machine()})


PROGRAM = Program("benchmarks.networks", define_flags, run, "the lines of finished cases are printed")


if __name__ == "__main__":
    PROGRAM.start()
