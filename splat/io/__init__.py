"""Reading and writing of gaussian files."""

from splat.io.files import NonFinite
from splat.io.formats import load, save
from splat.io.ply import load_ply, save_ply


__all__ = ["NonFinite", "load", "load_ply", "save", "save_ply"]
