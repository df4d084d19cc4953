"""Processes that draw: one OpenGL context each. One that dies or hangs costs its mesh, not the run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.atomic import write_whole
from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.model import Limits, Mesh, MeshError
from im3d_jax.data.meshes.settings import RenderSettings
from im3d_jax.data.meshes.sources import Source
from im3d_jax.errors import InputError


SECONDS_PER_MESH = 300.0
_LEAST_COVER = 1e-4  # of all pixels


class Fatal(InputError):
    """What ends the run: no OpenGL, no room on the disk."""


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there in full or not at all.

    Raises:
        Fatal: It cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        reason = error.strerror or error
        raise Fatal(
            f"cannot write {path} ({reason}); make room or choose another --out, finished objects are kept"
        ) from None


def draw_object(renderer: Any, mesh: Mesh, key: str, settings: RenderSettings) -> tuple[bytes, np.ndarray, np.ndarray]:
    """One object's turntable.

    Args:
        renderer: A `Renderer`.
        mesh: In the rig's world.
        key: The object's id, which decides its elevation and yaw.
        settings: Of the data set.

    Returns:
        (PNG bytes of the views, one below the other; elevations [F] and azimuths [F] in degrees).

    Raises:
        MeshError: Hardly anything of it can be seen.
    """
    from im3d_jax.data.meshes.placing import turned

    elevations = settings.elevations.draw(settings.seed, key, settings.views)
    azimuths = np.degrees(rig.orbit_azimuths(settings.views)).round(6)
    if settings.yaw == "per_object":
        number = int.from_bytes(hashlib.sha256(f"yaw/{settings.seed}/{key}".encode()).digest()[:8], "little")
        mesh = turned(mesh, number / 2**64 * 2.0 * math.pi)
    frames = renderer.render(mesh, np.radians(azimuths), np.radians(elevations), settings.size)
    if (frames[..., 3] > 127).mean() < _LEAST_COVER:
        raise MeshError("is hardly visible: nothing but a hair of it shows")
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, settings.size, 4)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue(), elevations, azimuths


def _worker(
    pipe: Any, meshes: str, packed: bool, out: str, settings: RenderSettings, limits: Limits, threads: int
) -> None:
    """A process: takes sources, answers with ("done", entry), ("failed", reason) or ("fatal", line)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.environ.setdefault("LP_NUM_THREADS", str(threads))  # llvmpipe's
    try:
        from im3d_jax.data.meshes.renderer import Renderer

        renderer = Renderer()
        pack = None
        if packed:
            from im3d_jax.data.meshes.pack import MeshPack

            pack = MeshPack(meshes)
        pipe.send(("ready", renderer.device))
    except InputError as error:
        pipe.send(("fatal", str(error)))
        return
    while (source := _next(pipe)) is not None:
        try:
            mesh = _read(source, meshes, pack, settings, limits)
            content, elevations, azimuths = draw_object(renderer, mesh, source.id, settings)
            write_atomically(pathlib.Path(out) / "objects" / f"{source.id}.png", content)
            entry = {
                "views": settings.views,
                "size": settings.size,
                "elevation_deg": elevations.tolist(),
                "azimuth_deg": azimuths.tolist(),
                "fov_deg": rig.FOV_DEG,
                "distance": rig.DISTANCE,
                "sha256": hashlib.sha256(content).hexdigest(),
                "png_bytes": len(content),
                "notes": list(mesh.notes),
            }
            answer: tuple[str, Any] = ("done", entry)
        except Fatal as error:
            answer = ("fatal", str(error))
        except MeshError as error:
            answer = ("failed", str(error))
        except MemoryError:
            answer = ("failed", "needs more memory than there is")
        except Exception as error:  # a mesh that finds a mistake of the program must not end the run
            answer = ("failed", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        try:
            pipe.send(answer)
        except OSError:  # the parent is gone
            return


def _next(pipe: Any) -> Source | None:
    """The next task; None where there is none, or no parent any more."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _read(source: Source, meshes: str, pack: Any, settings: RenderSettings, limits: Limits) -> Mesh:
    if pack is not None:
        return pack.mesh(source.number)
    from im3d_jax.data.meshes.reading import read_mesh

    up = source.columns.get("up", "")
    return read_mesh(
        pathlib.Path(meshes) / source.name, root=meshes, limits=limits, up=up if up in ("y", "z") else settings.up
    )


class _Slot:
    """One process and what it is at."""

    def __init__(self, arguments: tuple):
        context = multiprocessing.get_context("spawn")  # a forked OpenGL context does not work
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=_worker, args=(child, *arguments), daemon=True)
        self.process.start()
        child.close()
        self.source: Source | None = None
        self.started = time.monotonic()
        self.ready = False

    def stop(self, *, at_once: bool) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(0.0 if at_once else 5.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def draw_all(
    sources: Sequence[Source],
    *,
    meshes: str,
    packed: bool,
    out: str,
    settings: RenderSettings,
    limits: Limits,
    workers: int,
    seconds: float = SECONDS_PER_MESH,
) -> Iterator[tuple[Source, str, Any]]:
    """Draws meshes in several processes, in whatever order they are finished.

    Args:
        sources: What to draw.
        meshes: The folder, or the pack.
        packed: Which of the two.
        out: Folder with `objects`.
        settings: Of the data set.
        limits: Of mesh files.
        workers: Processes.
        seconds: A mesh that takes longer is given up.

    Yields:
        (source, "done", the index entry's figures) or (source, "failed", one line).

    Raises:
        Fatal: There is no OpenGL, or the files cannot be written.
    """
    workers = min(workers, len(sources))
    threads = max(1, (os.cpu_count() or 1) // max(workers, 1))
    arguments = (meshes, packed, out, settings, limits, threads)
    waiting = list(reversed(sources))
    slots: list[_Slot] = []
    interrupted = True
    try:
        slots = [_Slot(arguments) for _ in range(workers)]
        while waiting or any(slot.source for slot in slots):
            for slot in slots:
                if slot.ready and slot.source is None and waiting:
                    slot.source, slot.started = waiting.pop(), time.monotonic()
                    with contextlib.suppress(OSError):  # it has died: the pipe says so below
                        slot.pipe.send(slot.source)
            ready = multiprocessing.connection.wait([slot.pipe for slot in slots], timeout=1.0)
            for i, slot in enumerate(slots):
                late = slot.source is not None and time.monotonic() - slot.started > seconds
                if slot.pipe not in ready and not late:
                    continue
                source, (kind, value) = slot.source, _answer(slot, late, seconds)
                if kind == "fatal":
                    raise Fatal(value)
                if kind == "ready":
                    slot.ready = True
                    continue
                slot.source = None
                if kind == "gone":
                    slot.stop(at_once=True)
                    if source is None:
                        raise Fatal(
                            f"a drawing process ended before its first mesh ({value}); is its OpenGL driver sound?"
                        )
                    slots[i] = _Slot(arguments)
                    kind = "failed"
                assert source is not None
                yield source, kind, value
        interrupted = False
    finally:
        for slot in slots:
            slot.stop(at_once=interrupted)


def _answer(slot: _Slot, late: bool, seconds: float) -> tuple[str, Any]:
    """What a process says; ("gone", why) where it has died or hangs."""
    try:
        if slot.pipe.poll():
            return slot.pipe.recv()
    except (EOFError, OSError):
        slot.process.join(5.0)
        return "gone", f"its process ended (exit code {slot.process.exitcode})"
    return "gone", f"takes longer than {seconds:g} s"
