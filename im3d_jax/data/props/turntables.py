"""Props as a `TurntableSet`: drawn when asked for, in the thread that asks or in processes of their own."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.pack import MeshPack
from im3d_jax.data.props.arranging import arrange
from im3d_jax.data.props.catalogue import Prop
from im3d_jax.data.props.scenes import PropScenes, Scene
from im3d_jax.data.turntable import Turntable
from im3d_jax.errors import InputError


class PropTurntables:
    """Turntables of props.

    The first example that a thread draws makes it an OpenGL context and reads the pack; both stay with the thread. A
    pickled set is opened anew where it arrives, so that the worker processes of any loader can have one. Threads of
    one process share its interpreter: to draw with all cores, use `PropProcesses`.

    Args:
        pack: File that `im3d render-dataset --pack` wrote of the catalogue's meshes.
        split: "train" or "test".
        size: Side of the pictures, pixels.
        frames: Frames of each.
        objects: Only the first ones of the split; None takes all.
        seed: Another seed gives other examples of the same props.
        gpu: Number of the EGL device; None takes EGL's first.
        props: What to draw from; None takes the catalogue.

    Raises:
        InputError: The pack cannot be read, or lacks objects of the catalogue.
        ValueError: An unknown split, or more objects than it has.
    """

    def __init__(
        self,
        pack: str | os.PathLike,
        split: str,
        *,
        size: int = 256,
        frames: int = 16,
        objects: int | None = None,
        seed: int = 0,
        gpu: int | None = None,
        props: Sequence[Prop] | None = None,
    ):
        self.scenes = PropScenes(split, seed=seed, props=props)
        self._length = len(self.scenes) if objects is None else objects
        if self._length > len(self.scenes):
            raise ValueError(f"split {split!r} has {len(self.scenes)} objects, not {objects}")
        self.pack, self.size, self.frames, self._gpu = os.fspath(pack), size, frames, gpu
        self._numbers = _numbers(MeshPack(pack), self.pack, self.scenes.props)
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def __len__(self) -> int:
        return self._length

    def caption(self, index: int) -> str:
        """Caption of example `index`, without drawing it."""
        return self.scenes.caption(index)

    def __getitem__(self, index: int) -> Turntable:
        """Example `index`.

        Raises:
            IndexError: Outside of the set.
            InputError: There is no OpenGL, or the pack is damaged.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"object {index} of {self._length}")
        scene = self.scenes.scene(index)
        azimuths = rig.orbit_azimuths(self.frames)
        return Turntable(
            rgba=self._studio().draw(scene, azimuths),
            caption=scene.caption,
            elevations=np.full(self.frames, scene.elevation, np.float32),
            azimuths=azimuths.astype(np.float32),
            key=f"{self.scenes.split}-{self.scenes.seed}-{index}",
        )

    def _studio(self) -> _Studio:
        if not hasattr(self._local, "studio"):
            self._local.studio = _Studio(self.pack, self._numbers, self.size, self.frames, self._gpu)
        return self._local.studio

    @property
    def device(self) -> str:
        """Who draws in this thread: the name of the GPU, or llvmpipe."""
        return self._studio().renderer.device


def _numbers(pack: MeshPack, path: str, props: Sequence[Prop]) -> dict[str, int]:
    """Places of props in a pack, by id."""
    found = {entry["id"]: number for number, entry in enumerate(pack.entries)}
    missing = [prop.id for prop in props if prop.id not in found]
    if missing:
        raise InputError(
            f"pack {path} lacks {len(missing)} of {len(props)} props, the first of them {missing[0]}; "
            "write it from all meshes of the catalogue (docs/props.md)"
        )
    return {prop.id: found[prop.id] for prop in props}


class _Studio:
    """A context, and the meshes that were read; of one thread."""

    def __init__(self, pack: str, numbers: dict[str, int], size: int, frames: int, gpu: int | None):
        from im3d_jax.data.props.renderer import PropRenderer

        self._pack, self._numbers = MeshPack(pack), numbers
        self.renderer = PropRenderer(size, frames, gpu=gpu)
        self._mesh = functools.lru_cache(maxsize=None)(self._pack.mesh)

    def draw(self, scene: Scene, azimuths: np.ndarray) -> np.ndarray:
        """[F, size, size, 4] uint8."""
        from im3d_jax.data.props.renderer import Item, Light

        numbers = [self._numbers[part.prop.id] for part in scene.parts]
        meshes = [self._mesh(number) for number in numbers]
        items = [
            Item(number, mesh, transform, part.paint, part.prop.main, part.seed)
            for number, mesh, transform, part in zip(numbers, meshes, arrange(scene, meshes), scene.parts, strict=True)
        ]
        ambient, sky, key, fill, azimuth, elevation = scene.light
        flat = math.cos(elevation)
        towards = (flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation))
        light = Light((ambient, sky, key, fill), towards)
        return self.renderer.render(items, azimuths, np.full(len(azimuths), scene.elevation), light)


def open_props(spec: str, numbers: list[str]) -> PropTurntables:
    """The training split of ``props:PACK[:objects[:size[:frames]]]``.

    Args:
        spec: For messages.
        numbers: What follows the first colon, split at colons.

    Raises:
        InputError: No pack, or numbers that are none.
    """
    pack, *rest = numbers or [""]
    if not pack or len(rest) > 3 or not all(text.isascii() and text.isdigit() and int(text) for text in rest):
        raise InputError(f"{spec}: expected props:PACK[:objects[:size[:frames]]], as in props:props.meshpack:64:256")
    given = dict(zip(("objects", "size", "frames"), map(int, rest), strict=False))
    try:
        return PropTurntables(pack, "train", **given)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{spec}: {error}") from None
