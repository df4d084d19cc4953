"""Makes the README's gallery: held-out prompts, one seed each, none picked.

    python -m experiments.gallery --out=runs/gallery --pictures=docs/gallery

Prompt i is the caption of sample i of Toybox's test split (noun, colour and pattern never occur together in training);
its seed is i. Each picture shows the 16 views that the model drew (left) and renders of the asset from the same cameras
(right). A rerun continues.
"""

from __future__ import annotations

import pathlib

from absl import app, flags
from PIL import Image

from im3d_jax.cli import main as cli
from im3d_jax.data.toybox import Toybox


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("out", None, "Folder of the runs.", required=True, flag_values=values)
    flags.DEFINE_string("pictures", None, "Folder of the WebP pictures.", required=True, flag_values=values)
    flags.DEFINE_integer("count", 8, "How many prompts.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("quality", "standard", "Quality of each run.", flag_values=values)
    flags.DEFINE_string("model", "tiny", "Model of each run.", flag_values=values)


def side_by_side(left: pathlib.Path, right: pathlib.Path) -> Image.Image:
    """Two sheets of one height as one picture on white."""
    pictures = [Image.open(path).convert("RGB") for path in (left, right)]
    gap = 24
    canvas = Image.new("RGB", (sum(p.width for p in pictures) + gap, pictures[0].height), "white")
    canvas.paste(pictures[0], (0, 0))
    canvas.paste(pictures[1], (pictures[0].width + gap, 0))
    return canvas


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    values, toybox = flags.FLAGS, Toybox("test")
    pictures = pathlib.Path(values.pictures)
    pictures.mkdir(parents=True, exist_ok=True)
    for i in range(values.count):
        caption, run = toybox.caption(i), pathlib.Path(values.out) / f"{i:02d}"
        flags_of_run = [
            f"--prompt={caption}",
            f"--seed={i}",
            f"--quality={values.quality}",
            f"--model={values.model}",
        ]
        status = cli.main(["generate", *flags_of_run, f"--out={run}"])
        if status:
            raise SystemExit(status)
        picture = side_by_side(run / "sheet.png", run / "asset_sheet.png")
        picture.save(pictures / f"{i:02d}.webp", quality=80, method=6)
        print(f"| {caption} (seed {i}) | ![{caption}]({pictures / f'{i:02d}.webp'}) |")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
