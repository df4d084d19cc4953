"""The page of an asset: one HTML file that shows it, its views and its figures without a network."""

from im3d_jax.viewer.about import About, about_captures, about_file, about_request
from im3d_jax.viewer.frame import page_frame
from im3d_jax.viewer.page import PosedPictures, build_page


__all__ = [
    "About",
    "PosedPictures",
    "about_captures",
    "about_file",
    "about_request",
    "build_page",
    "page_frame",
]
