"""Gaussian splatting in JAX: cameras, gaussians, a differentiable rasterizer and file formats."""

from splat.cameras import Cameras, from_opengl, look_at, orbit_cameras, pinhole_intrinsics, to_opengl
from splat.gaussians import Gaussians
from splat.harmonics import SH_C0
from splat.io import load, load_ply, save, save_ply
from splat.options import RenderOptions
from splat.rasterize import Rendering
from splat.render import count_pairs, render, round_capacity
from splat.sharding import render_sharded


__all__ = [
    "SH_C0",
    "Cameras",
    "Gaussians",
    "RenderOptions",
    "Rendering",
    "count_pairs",
    "from_opengl",
    "load",
    "load_ply",
    "look_at",
    "orbit_cameras",
    "pinhole_intrinsics",
    "render",
    "render_sharded",
    "round_capacity",
    "save",
    "save_ply",
    "to_opengl",
]
