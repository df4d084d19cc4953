"""The page of an asset: one HTML file that shows it, its views and its figures without a network."""

from im3d_jax.viewer.about import About, about_captures, about_file, about_request
from im3d_jax.viewer.frame import bounds, page_frame
from im3d_jax.viewer.page import ELEVATION_DEG, FOV_DEG, PosedPictures, build_page, distance_of


__all__ = [
    "ELEVATION_DEG",
    "FOV_DEG",
    "About",
    "PosedPictures",
    "about_captures",
    "about_file",
    "about_request",
    "bounds",
    "build_page",
    "distance_of",
    "page_frame",
]
