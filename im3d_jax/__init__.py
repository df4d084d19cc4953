"""IM-3D in JAX: text or a picture → 16 turntable views → a 3D Gaussian-splat asset (arXiv 2402.08682).

    import im3d_jax as im3d

    model = im3d.load("tiny")
    asset = im3d.generate(model, "a red mug with white dots", quality="draft", progress=print)
    asset.save("mug.ply")

Names are imported when they are first used: `import im3d_jax` alone loads neither JAX nor Flax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from im3d_jax.errors import InputError
from im3d_jax.version import __version__


if TYPE_CHECKING:
    from im3d_jax.data.captures import Capture, load_capture
    from im3d_jax.generation.api import generate, reconstruct, views
    from im3d_jax.generation.asset import Asset, Views
    from im3d_jax.generation.captures import CaptureSettings
    from im3d_jax.generation.request import AssetRequest
    from im3d_jax.pipelines import Pipeline, load


__all__ = [
    "Asset",
    "AssetRequest",
    "Capture",
    "CaptureSettings",
    "InputError",
    "Pipeline",
    "Views",
    "__version__",
    "generate",
    "load",
    "load_capture",
    "reconstruct",
    "views",
]

_HOMES = {
    "Asset": "im3d_jax.generation.asset",
    "AssetRequest": "im3d_jax.generation.request",
    "Capture": "im3d_jax.data.captures",
    "CaptureSettings": "im3d_jax.generation.captures",
    "Pipeline": "im3d_jax.pipelines",
    "Views": "im3d_jax.generation.asset",
    "generate": "im3d_jax.generation.api",
    "load": "im3d_jax.pipelines",
    "load_capture": "im3d_jax.data.captures",
    "reconstruct": "im3d_jax.generation.api",
    "views": "im3d_jax.generation.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
