"""Meshes as training data: read, placed in the rig's world, packed, and drawn from the turntable's cameras.

`dataset` describes the folders of turntables that come out; `renderer` needs moderngl, PLY and STL need trimesh, and
files compressed by Draco need DracoPy (the extra [data]). All else runs without.
"""

from im3d_jax.data.meshes.model import Limits, Material, Mesh, MeshError, Part, Texture
from im3d_jax.data.meshes.pack import MeshPack, write_pack
from im3d_jax.data.meshes.reading import read_mesh


__all__ = ["Limits", "Material", "Mesh", "MeshError", "MeshPack", "Part", "Texture", "read_mesh", "write_pack"]
