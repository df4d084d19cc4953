"""Converts weights of SVD, SV3D and Stable Diffusion between diffusers' folders and Stability AI's single files.

Tensors keep their dtype and their bytes. Tensors that exist in one layout only are kept apart and restored by the
conversion back. The output records the epsilon of the group norms, which differs between the two.
"""

import pathlib

from absl import flags

from im3d_jax.errors import InputError, Stopped, input_errors
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path


LAYOUTS = ("diffusers", "sgm")


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("model", None, "folder or file to convert, or a hub id", flag_values=values)
    flags.DEFINE_enum(
        "to", None, LAYOUTS, "diffusers: a folder; sgm: a single file as Stability AI's own", flag_values=values
    )
    define_path("out", None, "folder or file to write; must not exist", flag_values=values)
    flags.DEFINE_string(
        "family", None, "svd, svd_xt, sv3d_u, sv3d_p, sd15, sd21 or sd21_base; recognised from the tensors by default",
        flag_values=values,
    )  # fmt: skip
    define_integer(
        "frames", None, "frames of an SVD fine-tuned on orbits; by default from unet/config.json, or 25",
        lower_bound=2, upper_bound=1000, flag_values=values,
    )  # fmt: skip


def run(values: flags.FlagValues) -> None:
    """Writes the other layout and prints what was written.

    Raises:
        InputError: A flag is missing, or the weights cannot be converted.
        Stopped: Ctrl-C: nothing is left.
    """
    for name, example in (("model", "svd.safetensors"), ("to", "diffusers"), ("out", "weights/svd")):
        if not values[name].value:
            raise InputError(f"--{name} is missing; give for instance --{name}={example}")
    from im3d_jax.weights.checkpoints import encoder_folder, open_checkpoint, with_frames
    from im3d_jax.weights.conversion import convert_checkpoint
    from im3d_jax.weights.hub import find_model

    try:
        with input_errors(OSError):
            checkpoint = open_checkpoint(find_model(values.model), values.family)
            if values.frames is not None:
                checkpoint = with_frames(checkpoint, values.frames)
            counts = convert_checkpoint(checkpoint, values.to, pathlib.Path(values.out))
    except KeyboardInterrupt:
        raise Stopped(f"stopped: nothing was written to {values.out}; rerun the same command to start again") from None
    preset = checkpoint.preset
    if checkpoint.remark:
        print(checkpoint.remark)
    print(f"{preset.name}, {checkpoint.layout} to {values.to}: {values.out}")
    absent = [name for name in ("unet", "vae", encoder_folder(preset)) if name not in checkpoint.networks]
    if absent:
        print(f"{values.model} holds no {' and no '.join(absent)}: neither does the output")
    aside = counts.pop("aside")
    print(", ".join(f"{network} {count} tensors" for network, count in counts.items()))
    if aside:
        print(f"{aside} tensors exist in the {checkpoint.layout} layout only: kept apart for the way back")
    print(f"epsilon of the group norms: {preset.norm_eps}'s")
