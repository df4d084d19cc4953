"""Encodes turntables for the training of an SVD-like network: latents and embeddings, by the network's own encoders.

    im3d render-dataset --meshes=MESHES --out=data/turntables --views=14 --size=576
    python -m experiments.encode --turntables=data/turntables --model=DIR_OF_SVD --out=data/encoded

--turntables takes a folder of `im3d render-dataset` or of `experiments.build_tfds`,
toybox[:objects[:size[:frames]]], or props:PACK[:objects[:size[:frames]]]. Turntables with a multiple of the network's
frames are thinned. The same command resumes.
"""

from __future__ import annotations

from absl import flags

from experiments.programs import Program
from im3d_jax import environment, seeds
from im3d_jax.data.encoded import EncodedWriter
from im3d_jax.data.turntable_sets import open_turntables
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.paths import define_path
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.pipelines.sources import open_source
from im3d_jax.pipelines.svd import FAMILIES, open_orbit_model
from im3d_jax.progress import ProgressPrinter
from im3d_jax.training.encode import EncodeSettings, encode_turntables
from im3d_jax.weights.hub import find_model


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("turntables", None, "folder of turntables, or toybox:COUNT", flag_values=values)
    define_path("model", None, "SVD or SV3D: a folder, a file or a hub id", flag_values=values)
    define_path("out", None, "folder to write", flag_values=values)
    flags.DEFINE_string("family", "", "whose conditions to write; sv3d_p for explicit cameras", flag_values=values)
    define_integer("frames", 0, "frames of a video; 0 for the family's", lower_bound=0, flag_values=values)
    define_float("background", 1.0, "grey of the background, 1: white", 0.0, 1.0, flag_values=values)
    define_integer("seed", 0, "seed of the noise on conditioning pictures", 0, seeds.LARGEST, flag_values=values)
    flags.DEFINE_enum("memory", None, sorted(MEMORIES), "memory preset of the encoders", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Encodes.

    Raises:
        InputError: A wrong flag, turntables or weights that cannot be used.
    """
    for name in ("turntables", "model", "out"):
        if not values[name].value:
            raise InputError(f"--{name} is missing")
    environment.start_jax()
    turntables = open_turntables(values.turntables)
    source = open_source(str(find_model(values.model, "--model")))
    if source.preset.name not in FAMILIES:
        raise InputError(f"--model={values.model} is {source.preset.name}; expected {', '.join(FAMILIES)}")
    model = open_orbit_model(source, values.memory)
    settings = EncodeSettings(values.frames, values.family, values.background, values.seed)
    encode_turntables(
        turntables, model, lambda decides: EncodedWriter(values.out, decides), settings, ProgressPrinter()
    )


PROGRAM = Program("encode", define_flags, run, "the same command resumes")


if __name__ == "__main__":
    PROGRAM.start()
