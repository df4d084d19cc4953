"""What to make: the typed request that the command line, the batch files and Python callers all turn into."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from im3d_jax import seeds
from im3d_jax.choices import Direction, Quality, Start, check_whole, is_whole
from im3d_jax.digests import file_hash
from im3d_jax.errors import InputError, unknown_field
from im3d_jax.images.files import read_image


MOST_ROUNDS = 2
ROUNDING = 1e-3  # by which values of a picture may lie outside of [0, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class AssetRequest:
    """One asset, or the views of one.

    Attributes:
        prompt: What to make, in words.
        image: Picture of the object: a path, or [H, W, 3 or 4] float32 in [0, 1] with straight alpha. With alpha, or
            before a plain background.
        seed: Of everything that is random, 0 to 2^32 - 1. The same request gives the same result.
        quality: ``draft``, ``standard`` or ``best``; what it stands for is in one table of each model.
        rounds: Rounds of refinement, 0 to 2.
        elevation_deg: Elevation of the cameras in degrees, where it is known; it is found otherwise.
        orbit_direction: How the views turn, seen from above: ``ccw``, ``cw``, or ``auto`` to find it.
        start: Where the fit starts: ``hull`` for the surface of the views' visual hull, ``ball`` for IM-3D's ball of
            grey gaussians, ``auto`` for what the model's quality says.

    Raises:
        InputError: Neither prompt nor picture, an empty prompt, or a value outside of its range.
    """

    prompt: str | None = None
    image: str | os.PathLike | np.ndarray | None = None
    seed: int = 0
    quality: Quality = "standard"
    rounds: int = 2
    elevation_deg: float | None = None
    orbit_direction: Direction = "auto"
    start: Start = "auto"

    def __post_init__(self):
        self._check_prompt()
        self._check_image()
        if self.prompt is None and self.image is None:
            raise InputError("neither a prompt nor an image is given; give one of them or both")
        check_seed(self.seed)
        check_quality(self.quality)
        if not (is_whole(self.rounds) and 0 <= self.rounds <= MOST_ROUNDS):
            raise InputError(f"rounds={self.rounds}: expected 0 to {MOST_ROUNDS}")
        degrees = self.elevation_deg
        real = isinstance(degrees, numbers.Real) and not isinstance(degrees, bool)
        if degrees is not None and not (real and -89.0 <= degrees <= 89.0):
            raise InputError(f"elevation_deg={degrees}: expected degrees between -89 and 89")
        if degrees == 0:
            # -0.0 is equal, but would be other JSON.
            object.__setattr__(self, "elevation_deg", 0.0)
        if self.orbit_direction not in get_args(Direction):
            raise InputError(
                f"orbit_direction={self.orbit_direction}: expected one of {', '.join(get_args(Direction))}"
            )
        if self.start not in get_args(Start):
            raise InputError(f"start={self.start}: expected one of {', '.join(get_args(Start))}")

    def _check_prompt(self) -> None:
        if self.prompt is None:
            return
        if not isinstance(self.prompt, str):
            raise InputError(f"prompt={str(self.prompt)[:40]}: expected text; give a picture as image=")
        if not self.prompt.strip():
            raise InputError('the prompt is empty; say what to make, for instance "a red mug", or leave it out')
        # Python stands in lone surrogates for bytes of a command line that are no UTF-8.
        if any(0xD800 <= ord(letter) < 0xE000 for letter in self.prompt):
            raise InputError("the prompt holds bytes that are no UTF-8 text; check the terminal's encoding")

    def _check_image(self) -> None:
        image = self.image
        if image is None or isinstance(image, str | os.PathLike):
            if image == "":
                raise InputError("the path of the image is empty; give the path of a picture, or leave it out")
            return
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"image={str(image)[:40]}: expected a path or an array [height, width, 3 or 4] in [0, 1]; of a PIL "
                "picture, give numpy.asarray(picture) / 255"
            )
        if image.ndim != 3 or image.shape[-1] not in (3, 4):
            raise InputError(f"image of shape {list(image.shape)}: expected [height, width, 3 or 4]")
        if not np.issubdtype(image.dtype, np.floating):
            raise InputError(f"image of type {image.dtype}: expected floats in [0, 1]; divide 8-bit values by 255")
        if image.size and not (image.min() >= -ROUNDING and image.max() <= 1.0 + ROUNDING):
            raise InputError(
                f"image with values from {image.min():.4g} to {image.max():.4g}: expected floats in [0, 1]; divide "
                "8-bit values by 255"
            )

    @property
    def elevation(self) -> float | None:
        """The given elevation in radians."""
        return None if self.elevation_deg is None else math.radians(self.elevation_deg)

    def read_image(self) -> np.ndarray | None:
        """The picture [H, W, 3 or 4], if there is one.

        Raises:
            ImageError: The file cannot be read.
        """
        if self.image is None:
            return None
        if isinstance(self.image, np.ndarray):
            # As it is hashed: equal hashes are equal pictures.
            return np.asarray(self.image, np.float32)
        return read_image(self.image)

    def to_json(self) -> dict[str, Any]:
        """JSON values that decide the result: the picture stands there by its content, not by its path."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        degrees = self.elevation_deg
        # Equal values of other types would be other JSON.
        same = {"seed": int(self.seed), "rounds": int(self.rounds)}
        return {**fields, **same, "elevation_deg": None if degrees is None else float(degrees), "image": self._hash()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], image: str | os.PathLike | np.ndarray | None = None) -> AssetRequest:
        """The request of what `to_json` returned, for instance of ``settings.request`` in run.json.

        Args:
            fields: Values by the names of the fields; those that are missing have their defaults.
            image: The picture, where `fields` has the hash of one: a path, or [H, W, 3 or 4] float32 in [0, 1].

        Raises:
            InputError: No mapping, an unknown field, a value outside of its range, a picture that is missing or has
                another hash, or one where `fields` has none.
            ImageError: The picture cannot be read.
        """
        if not isinstance(fields, Mapping):
            raise InputError(f"fields={str(fields)[:40]}: expected a mapping, as `to_json` returns")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise InputError(unknown_field(str(name), known))
        wanted = fields.get("image")
        if wanted is None and image is not None:
            raise InputError("a picture is given, but the fields have no hash of one; leave image= away")
        if wanted is not None and image is None:
            raise InputError(f"the fields name a picture by its hash {str(wanted)[:12]}…; give the picture as image=")
        request = cls(**{**fields, "image": image})
        found = request._hash()
        if found != wanted:
            raise InputError(
                f"image with the hash {str(found)[:12]}…: expected {str(wanted)[:12]}…; give the picture that the "
                "request was made with"
            )
        return request

    def _hash(self) -> str | None:
        if self.image is None:
            return None
        if isinstance(self.image, np.ndarray):
            shape = ",".join(map(str, self.image.shape)).encode()
            return hashlib.sha256(shape + np.ascontiguousarray(self.image, np.float32).tobytes()).hexdigest()
        return file_hash(self.image)


def check_seed(seed: Any) -> None:
    """Refuses what is no seed.

    Raises:
        InputError: Not a whole number from 0 to 2^32 - 1.
    """
    check_whole("seed", seed, 0, seeds.LARGEST)


def check_quality(quality: Any) -> None:
    """Refuses what is no quality.

    Raises:
        InputError: None of ``draft``, ``standard`` and ``best``.
    """
    if quality not in get_args(Quality):
        raise InputError(f"quality={quality}: expected one of {', '.join(get_args(Quality))}")
