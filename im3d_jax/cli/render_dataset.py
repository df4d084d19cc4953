"""Renders a folder of meshes (GLB, glTF, OBJ, PLY, STL) into turntables for training a multiview model.

OUT/objects/ID.png holds an object's views, one below the other; OUT/index.jsonl its caption, cameras and hash. A rerun
renders what is missing. Meshes that cannot be used are listed, here and in OUT/failed.jsonl, and skipped. With
--pack=FILE nothing is rendered: the meshes go into one small file, which --meshes=FILE takes on another machine.

Needs the extra [data], and OpenGL through EGL: a GPU's driver, or Mesa (Debian: libegl1 libgl1 libegl-mesa0
libgl1-mesa-dri).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from absl import flags

from im3d_jax import seeds
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.progress import ProgressPrinter


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("meshes", None, "folder of meshes, or a pack", flag_values=values)
    define_path("out", None, "folder of turntables to write", flag_values=values)
    define_path("pack", None, "file to pack the meshes into, in place of rendering", flag_values=values)
    define_path(
        "captions", None, "table with the columns path and caption, tab-separated; others are copied into the index, "
        "and up (y or z) is obeyed; without it, captions are cleaned file names", flag_values=values,
    )  # fmt: skip
    define_integer("views", 16, "frames of a turntable", lower_bound=1, upper_bound=84, flag_values=values)
    define_integer("size", 256, "side of a picture", lower_bound=16, upper_bound=1024, flag_values=values)
    flags.DEFINE_string(
        "elevation", "fixed:15", "degrees: fixed:15 for all, per_object:0:45 for one within a range per object, "
        "dynamic:0:45 for a curve over the turn", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "up", "auto", ("auto", "y", "z"), "up in OBJ, PLY and STL files; auto: z in STL, else y (glTF always y)",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "yaw", "front", ("front", "per_object"), "what frame 0 sees: the front, or any side", flag_values=values
    )
    define_integer("workers", None, "processes; by default one per core", lower_bound=1, flag_values=values)
    define_integer("seed", 0, "decides elevations and yaws", 0, seeds.LARGEST, flag_values=values)
    flags.DEFINE_string("only", None, "pattern for the meshes' relative paths, or a part of them", flag_values=values)
    define_integer("limit", None, "the first so many meshes", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "render all of --out again", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then renders or packs. Raises `InputError` for a wrong input, and where nothing is left."""
    from im3d_jax.data.meshes.elevations import Elevations
    from im3d_jax.data.meshes.settings import RenderSettings

    if not values.meshes:
        raise InputError("--meshes is missing; give a folder of meshes, for instance --meshes=props")
    if bool(values.out) == bool(values.pack):
        raise InputError("expected either --out, to render, for instance --out=turntables, or --pack, to pack")
    settings = RenderSettings(
        values.views, values.size, Elevations.parse(values.elevation), values.seed, values.up, values.yaw
    )
    progress = ProgressPrinter()
    if values.pack:
        _pack(values, progress)
        return
    from im3d_jax.data.meshes.dataset import DatasetFolder, earlier_settings, render_dataset

    earlier_settings(values.out)  # before the meshes are looked for, which may take long
    packed = os.path.isfile(values.meshes)
    sources = _sources(values, packed, progress)
    folder = DatasetFolder(values.out, settings, overwrite=values.overwrite)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done, skipped = render_dataset(
        sources, values.meshes, folder, settings, progress, packed=packed, workers=values.workers or cores
    )
    if not done:
        raise InputError(f"none of the {skipped} meshes could be used; {values.out}/failed.jsonl says why")
    progress.line(f"{done} turntables in {values.out}" + (f", {skipped} meshes skipped" if skipped else ""))


def _sources(values: flags.FlagValues, packed: bool, progress: ProgressPrinter) -> list:
    from im3d_jax.data.meshes import captions, sources

    table = captions.read_table(values.captions) if values.captions else {}
    if packed:
        from im3d_jax.data.meshes.pack import MeshPack

        if table:
            raise InputError("--captions has no effect on a pack, which has captions of its own; leave it out")
        return sources.packed_sources(MeshPack(values.meshes).entries, only=values.only, limit=values.limit)
    found = sources.find_meshes(values.meshes, table)
    absent = len(table.keys() - {source.name for source in found})
    if absent:
        progress.line(f"{absent} of {len(table)} paths of {values.captions} are not in {values.meshes}")
    return sources.select(found, values.only, values.limit)


def _pack(values: flags.FlagValues, progress: ProgressPrinter) -> None:
    from im3d_jax.data.meshes.model import Limits, Mesh, MeshError
    from im3d_jax.data.meshes.pack import TEXTURE_SIDE, write_pack
    from im3d_jax.data.meshes.reading import read_mesh
    from im3d_jax.data.meshes.sources import Source

    if os.path.isfile(values.meshes):
        raise InputError(f"--meshes={values.meshes} is a file; --pack wants a folder of meshes")
    if os.path.exists(values.pack) and not values.overwrite:
        raise InputError(f"--pack={values.pack} exists; give another file, or --overwrite")
    sources = _sources(values, False, progress)

    def meshes() -> Iterator[tuple[Source, Mesh]]:
        with progress.stage(f"packing {len(sources)} meshes") as report:
            for number, source in enumerate(sources, 1):
                up = source.columns.get("up", "")
                path = os.path.join(values.meshes, source.name)
                try:
                    mesh = read_mesh(
                        path,
                        root=values.meshes,
                        limits=Limits(texture_side=TEXTURE_SIDE),
                        up=up if up in ("y", "z") else values.up,
                    )
                except MeshError as error:
                    progress.line(f"skipped {source.name}: {error}")
                else:
                    yield source, mesh
                report(number, len(sources), "")

    count = write_pack(values.pack, meshes())
    progress.line(f"{count} meshes in {values.pack}, {os.path.getsize(values.pack) / 2**20:.1f} MiB")
