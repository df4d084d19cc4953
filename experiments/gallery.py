"""Makes the README's gallery: held-out prompts, one seed each, none picked.

    python -m experiments.gallery --out=runs/gallery --pictures=docs/gallery

Prompt i is the caption of sample i of Toybox's test split (noun, colour and pattern never occur together in training);
its seed is i. Each picture shows the 16 views that the model drew (left) and renders of the asset from the same cameras
(right). Prints a row of a Markdown table for each. The same command resumes an interrupted run.
"""

from __future__ import annotations

import pathlib

from absl import flags
from PIL import Image

import im3d_jax
from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.data.toybox import Toybox
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.pipelines import Pipeline, Quality
from im3d_jax.progress import Progress, ProgressPrinter


GAP = 24  # pixels between the two sheets


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("out", None, "folder of the runs", flag_values=values)
    define_path("pictures", None, "folder of the WebP pictures", flag_values=values)
    define_integer("count", 8, "how many prompts", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("quality", "standard", ("draft", "standard", "best"), "of each run", flag_values=values)
    define_path("model", "tiny", "draws the views and the first pictures", flag_values=values)


def side_by_side(left: pathlib.Path, right: pathlib.Path) -> Image.Image:
    """Two pictures as one, their upper edges aligned, on white.

    Args:
        left: A picture file.
        right: The other one.
    """
    pictures = [Image.open(path).convert("RGB") for path in (left, right)]
    width, height = sum(picture.width for picture in pictures) + GAP, max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(pictures[0], (0, 0))
    canvas.paste(pictures[1], (pictures[0].width + GAP, 0))
    return canvas


def make_picture(
    model: Pipeline, index: int, quality: Quality, runs: pathlib.Path, pictures: pathlib.Path, progress: Progress
) -> str:
    """Makes one asset and its picture.

    Args:
        model: Draws.
        index: Of the sample of Toybox's test split.
        quality: Of the run.
        runs: The run folder goes there.
        pictures: The WebP picture goes there.
        progress: Who is told.

    Returns:
        A row of a Markdown table: the caption, and the picture.
    """
    caption, run, picture = Toybox("test").caption(index), runs / f"{index:02d}", pictures / f"{index:02d}.webp"
    im3d_jax.generate(model, caption, seed=index, quality=quality, out=run, progress=progress)
    pictures.mkdir(parents=True, exist_ok=True)
    side_by_side(run / "sheet.png", run / "asset_sheet.png").save(picture, quality=80, method=6)
    return f"| {caption} (seed {index}) | ![{caption}]({picture}) |"


def run(values: flags.FlagValues) -> None:
    """Makes all pictures and prints the rows of the table.

    Raises:
        InputError: A flag is missing, or the model or the folders cannot be used.
    """
    for name, example in (("out", "runs/gallery"), ("pictures", "docs/gallery")):
        if not values[name].value:
            raise InputError(f"--{name} is missing; give for instance --{name}={example}")
    environment.start_jax()
    model, progress = im3d_jax.load(values.model), ProgressPrinter()
    folders = pathlib.Path(values.out), pathlib.Path(values.pictures)
    for index in range(values.count):
        print(make_picture(model, index, values.quality, *folders, progress))


PROGRAM = Program("gallery", define_flags, run, "finished stages are kept, the same command goes on")


if __name__ == "__main__":
    PROGRAM.start()
