"""Weights of SVD, SV3D and Stable Diffusion between diffusers' folders and Stability AI's single files.

Tensors keep their dtype and their bytes; nothing is computed. What only one layout has is kept beside and comes back on
the way back. The result records whose code the group norms' eps follows.
"""

import pathlib

from absl import flags

from im3d_jax.errors import InputError, Stopped, input_errors


LAYOUTS = ("diffusers", "sgm")


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("model", None, "folder or file to convert, or a hub id", flag_values=values)
    flags.DEFINE_enum(
        "to", None, LAYOUTS, "diffusers: a folder; sgm: a single file as Stability AI's own", flag_values=values
    )
    flags.DEFINE_string("out", None, "folder or file to write; must not exist", flag_values=values)
    flags.DEFINE_string(
        "family", None, "svd, svd_xt, sv3d_u, sv3d_p, sd15, sd21 or sd21_base; told from the tensors otherwise",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "frames", None, "views that an SVD fine-tuned on orbits draws; otherwise as its unet/config.json says, or 25",
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
        raise Stopped(f"stopped; nothing was written to {values.out}, the same command starts anew") from None
    preset = checkpoint.preset
    if checkpoint.remark:
        print(checkpoint.remark)
    print(f"{preset.name}, {checkpoint.layout} to {values.to}: {values.out}")
    absent = [name for name in ("unet", "vae", encoder_folder(preset)) if name not in checkpoint.networks]
    if absent:
        print(f"{values.model} holds no {' and no '.join(absent)}: what was written lacks the same")
    aside = counts.pop("aside")
    print(", ".join(f"{network} {count} tensors" for network, count in counts.items()))
    if aside:
        print(f"{aside} tensors that only the {checkpoint.layout} layout has are kept beside")
    print(f"group norms follow {preset.norm_eps}'s eps")
