"""Times foreign networks of true size with random weights; one JSON line a case.

    python -m experiments.benchmark_foreign unet --diffusers
    python -m experiments.benchmark_foreign unet --kernels=10
    python -m experiments.benchmark_foreign decoder --family=svd --frames=21 --side=576 --memory=80gb,16gb --diffusers
    python -m experiments.benchmark_foreign generate --family=sv3d_u --memory=80gb

`unet`: one evaluation of both guidance branches (batch 2 of 21x72x72 latents for SV3D). `decoder`: all frames of a
video from latents. Both: median and minimum of `--repeats` calls after warm-up, compile time, what the compiled
program asks for, and the arithmetic: that of the same network written without chunks and flash attention, so that
nothing of it is hidden from the count. `--kernels` lists the kernels that take longest; `--frames` and `--side` set
sizes that no preset has.
`--diffusers` times diffusers' network of the same sizes on the same device in the same run, eager and, with
`--compiled`, under torch.compile.

`generate`: the program's own stages from a picture to an asset, twice, the second time with everything compiled; the
seconds of each stage, the peak of device memory, and the estimate that the program makes beforehand. Random networks
draw noise, which no fit is like: `--drawn=torus` (the default) draws all of it and then shows the fit an orbit of a
torus in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import math
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments import profiling, scenes
from experiments.benchmark import machine, peak_gib, program_gib, require_cuda, timed
from im3d_jax.cli import common, stages
from im3d_jax.errors import InputError
from im3d_jax.foreign import features, memory, recipes
from im3d_jax.foreign.networks import unet_of, working_dtype
from im3d_jax.foreign.video import OrbitPipeline
from im3d_jax.models.kl_autoencoder import KLAutoencoder
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.images.files import encode_png
from im3d_jax.output.renders import render_views
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.reconstruction.orbit_search import rig_cameras
from im3d_jax.weights.encoders import encoder_shapes
from im3d_jax.weights.names.networks import autoencoder_shapes, unet_shapes
from im3d_jax.weights.presets import PRESETS, Preset


CASES = ("unet", "decoder", "generate")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_list("family", "sv3d_u", "Families of presets.", flag_values=values)
    flags.DEFINE_list("memory", "80gb", "Memory presets.", flag_values=values)
    flags.DEFINE_integer("frames", None, "In place of the family's.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "side", None, "Height and width in pixels, in place of the family's.", lower_bound=64, flag_values=values
    )
    flags.DEFINE_integer("repeats", 10, "Timed calls.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("kernels", 0, "List so many kernels by time.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("diffusers", False, "Time diffusers' networks beside ours.", flag_values=values)
    flags.DEFINE_bool("compiled", False, "Time diffusers under torch.compile as well.", flag_values=values)
    flags.DEFINE_enum("quality", "standard", ("draft", "standard", "best"), "Of generate.", flag_values=values)
    flags.DEFINE_enum("drawn", "torus", ("torus", "noise"), "What the fit of generate sees.", flag_values=values)
    flags.DEFINE_integer("rounds", 2, "Refinements of generate.", lower_bound=0, upper_bound=2, flag_values=values)
    flags.DEFINE_string("out", None, "Also append the lines to this file.", flag_values=values)


class RandomSource:
    """Random parameters of a preset's networks; see `foreign.sources.Source`."""

    def __init__(self, preset: Preset):
        self.preset, self.name, self.remark = preset, f"{preset.name} (random)", ""

    def load(self, part: str, dtype) -> dict:
        """Parameters of ``unet``, ``vae`` or ``encoder``: normal kernels that keep activations near 1, biases of 0.

        Slices of one row of numbers, because drawing on the device would compile a program for each of many shapes.
        """
        if part == "encoder":
            shapes = encoder_shapes(self.preset.image_encoder)
        else:
            shapes = unet_shapes(self.preset.unet) if part == "unet" else autoencoder_shapes(self.preset.autoencoder)
        leaves, tree = jax.tree.flatten_with_path(shapes)
        rng, made = np.random.default_rng(0), []
        numbers = rng.standard_normal(max(math.prod(leaf.shape) for _, leaf in leaves) + 1000, np.float32)
        for path, leaf in leaves:
            count, start = math.prod(leaf.shape), rng.integers(1000)
            if len(leaf.shape) > 1:
                kernel = numbers[start : start + count].reshape(leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
            else:
                kernel = np.full(leaf.shape, float(path[-1].key == "scale"))
            made.append(jnp.asarray(kernel.astype(dtype)))
        return jax.tree.unflatten(tree, made)


def normal(stream: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal inputs: matrix units run faster on zeros than on any real data."""
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), stream), shape)


def timed_program(function, plain, arguments: tuple, values: flags.FlagValues) -> dict:
    """Compile time, memory, times and, if asked for, kernels of a function; its arithmetic from a plain form of it."""
    begun = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    figures = {"compile_s": time.perf_counter() - begun, "program_gib": program_gib(compiled)}
    figures |= timed(lambda: compiled(*arguments), values.repeats)
    tflop = jax.jit(plain).lower(*arguments).cost_analysis()["flops"] / 1e12
    figures |= {"tflop": tflop, "tflop_per_s": 1e3 * tflop / figures["median_ms"], "peak_gib": peak_gib()}
    return figures | (profiling.kernels(lambda: compiled(*arguments), values.kernels) if values.kernels else {})


def unet_case(preset: Preset, chosen: recipes.Memory, values: flags.FlagValues) -> dict:
    """One evaluation of both branches, or of one where the memory preset takes them in turn."""
    dtype = working_dtype()
    network, config = unet_of(preset, dtype), preset.unet
    rows = 2 if chosen.branches_together else 1
    side = preset.height // preset.autoencoder.factor, preset.width // preset.autoencoder.factor
    arguments = (
        RandomSource(preset).load("unet", dtype),
        normal(0, (rows, preset.frames, *side, config.in_channels)),
        jnp.zeros((rows,)),
        normal(1, (rows, 1, config.context_dims[0])),
        jnp.zeros((rows, len(config.vector_dims))),
    )

    def apply(network, params, *inputs):
        return network.apply({"params": params}, *inputs)

    plain = StableUNet(dataclasses.replace(config, attention_implementation="xla"), dtype)
    shape = {"rows": rows, "frames": preset.frames, "latent": list(side), "dtype": jnp.dtype(dtype).name}
    functions = functools.partial(apply, network), functools.partial(apply, plain)
    return shape | timed_program(*functions, arguments, values)


def decoder_case(preset: Preset, chosen: recipes.Memory, values: flags.FlagValues) -> dict:
    """All frames of a video from latents, as many at once as the memory preset takes."""
    dtype = working_dtype()
    network = KLAutoencoder(preset.autoencoder, dtype)
    chunk = recipes.frames_at_once(preset.frames, chosen.frames_at_once)
    side = preset.height // preset.autoencoder.factor, preset.width // preset.autoencoder.factor
    arguments = (
        RandomSource(preset).load("vae", jnp.float32),
        normal(0, (1, preset.frames, *side, preset.autoencoder.latent_channels)),
    )

    def decode(at_once, params, latents):
        return network.apply({"params": params}, latents, at_once, method="decode")

    functions = functools.partial(decode, chunk), functools.partial(decode, None)
    return {"frames": preset.frames, "at_once": chunk} | timed_program(*functions, arguments, values)


class ShownTorus(OrbitPipeline):
    """Does all the drawing and hands out an orbit of a torus: the fit then works on an object, not on noise."""

    def _torus(self, views, image):
        rig = self.recipe.rig
        cameras = rig_cameras(
            math.radians(20.0), "ccw", views=len(views), distance=rig.distance, fov=math.radians(rig.fov_deg),
            width=views.shape[2], height=views.shape[1],
        )  # fmt: skip
        drawn = render_views(scenes.torus(20_000), cameras)
        drawn[0] = image
        return drawn

    def draw_views(self, image, prompt, **named):
        views, count = super().draw_views(image, prompt, **named)
        return self._torus(views, image), count

    def refine(self, renders, image, prompt, **named):
        views, count = super().refine(renders, image, prompt, **named)
        return self._torus(views, image), count


def generate_case(preset: Preset, chosen: recipes.Memory, values: flags.FlagValues) -> dict:
    """Two whole runs of one model; seconds of each stage of the second, and of the first as a whole.

    The first run draws the random parameters as well, where the program would read a checkpoint; the second does so
    only under the memory presets that free a network after its stage.
    """
    fit = recipes.fit_config(values.quality)
    kind = ShownTorus if values.drawn == "torus" else OrbitPipeline
    model, runs = kind(RandomSource(preset), chosen), []
    for _ in range(2):
        picture = np.zeros((*[model.image_size] * 2, 4), np.float32)
        inner = slice(model.image_size // 5, -model.image_size // 5)
        picture[inner, inner] = 0.7, 0.2, 0.1, 1.0
        settings = {
            "command": "generate", "prompt": None, "elevation_deg": None, "rounds": values.rounds, "seed": 0,
            "quality": values.quality, "orbit_direction": "auto",
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
            source = pathlib.Path(scratch) / "picture.png"
            source.write_bytes(encode_png(picture))
            out = pathlib.Path(scratch) / "run"
            perceptual = features.bundled_features(), features.NAME
            begun = time.perf_counter()
            stages.make_asset(RunFolder(out, settings), model, str(source), perceptual=perceptual)
            seconds = time.perf_counter() - begun
            made = json.loads((out / "timings.json").read_text())
            found = json.loads((out / "run.json").read_text())
            runs.append((seconds, made, found, json.loads((out / "metrics.json").read_text())))
    itemsize = jnp.dtype(working_dtype()).itemsize
    size = preset.height, preset.height
    side = min(preset.height, model.recipe.fit_side)
    return {
        "first_run_s": runs[0][0],
        "second_run_s": runs[1][0],
        "stages_s": runs[1][1],
        "network_evaluations": runs[1][2]["network_evaluations"],
        "gaussians": runs[1][3]["gaussians"],
        "peak_gib": peak_gib(),
        "estimate_gib": memory.estimate(preset, chosen, itemsize, size, fit, side),
    }


def diffusers_case(what: str, preset: Preset, values: flags.FlagValues) -> dict:
    """diffusers' network of the same sizes in bfloat16 (`unet`) or float16 (`decoder`), on the same device."""
    import diffusers
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    side = preset.height // 8, preset.width // 8
    figures = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    if what == "unet":
        config = preset.unet
        network = diffusers.UNetSpatioTemporalConditionModel(
            num_frames=preset.frames,
            addition_time_embed_dim=config.vector_dims[0],
            projection_class_embeddings_input_dim=config.vector_dims[0] * len(config.vector_dims),
        )
        network = network.to("cuda", torch.bfloat16).eval()
        on_device = {"device": "cuda", "dtype": torch.bfloat16}
        inputs = (
            torch.randn(2, preset.frames, config.in_channels, *side, **on_device),
            torch.zeros(2, device="cuda"),
            torch.randn(2, 1, config.context_dims[0], **on_device),
            torch.zeros(2, len(config.vector_dims), **on_device),
        )
        call = lambda module: module(*inputs, return_dict=False)  # noqa: E731
    else:
        temporal = preset.autoencoder.temporal_decoder
        kind = diffusers.AutoencoderKLTemporalDecoder if temporal else diffusers.AutoencoderKL
        levels = len(preset.autoencoder.channels)
        blocks = {"block_out_channels": preset.autoencoder.channels, "layers_per_block": 2}
        blocks["down_block_types"] = ("DownEncoderBlock2D",) * levels
        if not temporal:
            blocks["up_block_types"] = ("UpDecoderBlock2D",) * levels
        network = kind(**blocks).to("cuda", torch.float16).eval()
        latents = torch.randn(preset.frames, 4, *side, device="cuda", dtype=torch.float16)
        more = {"num_frames": preset.frames} if temporal else {}
        call = lambda module: module.decode(latents, **more, return_dict=False)  # noqa: E731
    for name in ("eager", "compiled") if values.compiled and what == "unet" else ("eager",):
        module = network if name == "eager" else torch.compile(network)
        torch.cuda.reset_peak_memory_stats()

        def once(module=module):
            with torch.no_grad():
                call(module)
            torch.cuda.synchronize()

        for key, value in timed(once, values.repeats).items():
            figures[f"{name}_{key}"] = value
        figures[f"{name}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    del network, module
    torch.cuda.empty_cache()  # the next case's arrays are JAX's
    return figures


def preset_of(family: str, values: flags.FlagValues) -> Preset:
    """A family's preset, with the sizes that the flags give."""
    preset, side = PRESETS[family], values.side
    sizes = {"frames": values.frames, "height": side, "width": side}
    return dataclasses.replace(preset, **{name: size for name, size in sizes.items() if size is not None})


def run(what: str, values: flags.FlagValues) -> None:
    """Times every family under every memory preset."""
    if values.diffusers:
        require_cuda("--diffusers", "diffusers")
    common.start_jax()
    for family in values.family:
        for name in values.memory:
            preset, chosen = preset_of(family, values), recipes.MEMORIES[name]
            line = {"case": what, "family": family, "memory": name}
            try:
                if what == "generate":
                    line |= generate_case(preset, chosen, values)
                else:
                    line |= {"unet": unet_case, "decoder": decoder_case}[what](preset, chosen, values)
            except (jax.errors.JaxRuntimeError, InputError) as error:  # too little memory: the other cases still count
                line["error"] = str(error).splitlines()[0][:300]
            write(line, values.out)
        if values.diffusers and what != "generate":
            write(
                {"case": what, "family": family} | diffusers_case(what, preset_of(family, values), values), values.out
            )


def write(line: dict, out: str | None) -> None:
    """Prints a line, and appends it to a file."""
    line |= machine()
    text = json.dumps(
        {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in line.items()}
    )
    print(text, flush=True)
    if out:
        with open(out, "a") as file:
            file.write(text + "\n")


def main(argv):
    values = flags.FLAGS
    unknown = [name for name in values.family if name not in PRESETS]
    unknown += [name for name in values.memory if name not in recipes.MEMORIES]
    if len(argv) != 2 or argv[1] not in CASES or unknown:
        raise app.UsageError(f"expected one of {', '.join(CASES)} and known families and memory presets, got {unknown}")
    run(argv[1], values)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
