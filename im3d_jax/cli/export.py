"""Writes a run, or a file of gaussians of any program, in another format.

    im3d export RUN --to=spz
    im3d export FILE --to=sog --out=FILE.sog

RUN is a run folder. FILE is .ply (compressed or not), .spz, .sog, .splat or .glb. Without --out the result lies beside
it. docs/formats.md compares sizes and quality.

  ply             every number, 62 floats a gaussian
  ply-lean        degree-0 colour only, 14 floats a gaussian
  compressed-ply  PlayCanvas' compressed PLY, 16 bytes a gaussian
  spz, spz4       SPZ version 3 (gzip) and 4 (zstd)
  sog             PlayCanvas' SOG
  splat           32 bytes a gaussian, degree-0 colour
  glb             glTF with KHR_gaussian_splatting
  html            the page of `im3d view --page`
  mp4, webp, gif  a turntable
  colmap          the run's views and cameras as a COLMAP model (text)
  nerfstudio      the run's views and cameras with transforms.json
"""

from absl import flags

from im3d_jax.cli import exporting
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.paths import define_path


_OF_VIDEOS = ("size", "frames", "fps", "background", "elevation_deg", "path")


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("source", None, "run folder or file of gaussians; may be given without --source=", flag_values=values)
    flags.DEFINE_string("to", None, "kind of the result, see above", flag_values=values)
    define_path("out", None, "file or folder to write; beside the source by default", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace an existing result", flag_values=values)
    exporting.define_up(values)
    flags.DEFINE_string("size", "512", "turntables: pixels, as 512 or 640x360", flag_values=values)
    define_integer("frames", 96, "turntables: pictures of one round", 2, 1000, flag_values=values)
    define_integer("fps", 24, "turntables: pictures a second", 1, 60, flag_values=values)
    flags.DEFINE_string(
        "background", "white", "turntables: white, black, grey, a colour such as #202428, or transparent (WebP, GIF)",
        flag_values=values,
    )  # fmt: skip
    define_float(
        "elevation_deg", None, "turntables: elevation of the cameras; by default that of the views", -88.0, 88.0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "path", "turn", ("turn", "swing", "rise"), "turntables: once around; to both sides and back; once around, up "
        "and down", flag_values=values,
    )  # fmt: skip


take = exporting.take_source


def run(values: flags.FlagValues) -> None:
    """Exports and prints what was written.

    Raises:
        InputError: A flag is missing or wrong, or the source cannot be read or held.
    """
    source = exporting.source_of(values, "im3d export runs/mug --to=spz")
    from im3d_jax.exports import kinds
    from im3d_jax.exports.videos import VideoSettings, parse_background, parse_size

    if values.to not in kinds.KINDS:
        shown = "--to is missing" if values.to is None else f"--to={values.to} is no kind of file"
        raise InputError(f"{shown}; expected one of {', '.join(kinds.KINDS)}")
    if values.to not in kinds.VIDEOS:
        for name in _OF_VIDEOS:
            if values[name].present:
                raise InputError(f"--{name} is for turntables ({', '.join(kinds.VIDEOS)}); remove the flag")
    width, height = parse_size(values.size)
    video = VideoSettings(
        width, height, values.frames, values.fps, parse_background(values.background), values.elevation_deg, values.path
    )
    out = values.out or kinds.default_out(source, values.to)
    exporting.write(source, values.to, out, values.up, overwrite=values.overwrite, video=video)
