"""Reading and writing of gaussian files."""
from splat.io.ply import load_ply, save_ply


__all__ = ["load_ply", "save_ply"]
