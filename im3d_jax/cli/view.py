"""Writes a page that shows a run, or any file of gaussians, in a browser without a network.

    im3d view --page RUN
    im3d view --page FILE --out=PAGE.html

RUN is a run folder; its page is RUN/viewer.html, as the run wrote it (that of a reconstructed capture, whose folder
has no views, stays as it is). FILE is .ply, .spz, .sog, .splat or .glb; its
page lies beside it.
"""

import os

from absl import flags

from im3d_jax.cli import exporting
from im3d_jax.errors import InputError
from im3d_jax.paths import define_path


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_bool("page", False, "write a page (HTML file)", flag_values=values)
    define_path("source", None, "run folder or file of gaussians; may be given without --source=", flag_values=values)
    define_path("out", None, "page to write", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "replace an existing file of --out", flag_values=values)
    exporting.define_up(values)


take = exporting.take_source


def run(values: flags.FlagValues) -> None:
    """Writes the page and prints its name.

    Raises:
        InputError: Nothing is given, or it cannot be shown or written.
    """
    source = exporting.source_of(values, "im3d view --page runs/mug")
    if not values.page:
        raise InputError(f"give --page: im3d view --page {source} writes a page that any browser opens")
    from im3d_jax.exports import kinds
    from im3d_jax.output.run_files import PAGE

    default = os.path.join(source, PAGE) if os.path.isdir(source) else kinds.default_out(source, "html")
    out = values.out or default
    overwrite = values.overwrite or values.out is None or exporting.is_own_page(source, out)
    exporting.write(source, "html", out, values.up, overwrite=overwrite)
