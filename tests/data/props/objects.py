"""A small catalogue, and the pack of its meshes: boxes of one or two colours."""

import numpy as np

from im3d_jax.data.meshes.model import PLAIN, Material, Mesh, Part, to_linear
from im3d_jax.data.meshes.pack import write_pack
from im3d_jax.data.meshes.placing import place
from im3d_jax.data.meshes.sources import Source
from im3d_jax.data.props.catalogue import Prop
from im3d_jax.data.props.names import Name


BROWN, GREEN = (0.50, 0.33, 0.20), (0.20, 0.60, 0.25)


def box(low, high, colour=None):
    """A box between two corners; unpainted, or of an sRGB colour."""
    low, high = np.array(low, float), np.array(high, float)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))]
    material = PLAIN if colour is None else Material((*to_linear(np.array(colour)).tolist(), 1.0))
    return Part((low + corners * (high - low)).astype(np.float32), np.array(triangles, np.uint32), material)


def prop(key, name, *, usual="", main=(0.8, 0.8, 0.8), share=1.0, colour="", stands=True, flat=False):
    return Prop(key, Name(name), usual, main, share, colour, stands, flat)


# (prop, parts); "barrel", "chair" and others are trained on, "crate" and "jar" are held out.
OBJECTS = (
    (prop("barrel", "barrel", main=BROWN, share=0.9, colour="brown"), [box((-1, -1, 0), (1, 1, 3), BROWN)]),
    (prop("table", "table", usual="wood", flat=True), [box((-2, -1, 0), (2, 1, 1))]),
    (prop("bell", "bell", usual="gold"), [box((-1, -1, 0), (1, 1, 1.5))]),
    (
        prop("flag", "post with a [green] flag", main=BROWN, share=0.8),
        [box((-0.2, -0.2, 0), (0.2, 0.2, 4), BROWN), box((0.2, -0.1, 3), (1.0, 0.1, 3.8), GREEN)],
    ),
    (prop("house", "house", main=BROWN, share=0.9), [box((-1, -1, 0), (1, 1, 2), BROWN)]),
    (prop("tower", "tower", main=BROWN, share=0.9), [box((-1, -1, 0), (1, 1, 4), BROWN)]),
    (prop("man", "man with a beard", main=BROWN), [box((-1, -1, 0), (1, 1, 4), BROWN)]),
    (prop("crate", "crate", main=BROWN, flat=True), [box((-1, -1, 0), (1, 1, 2), BROWN)]),
    (prop("jar", "jar", main=GREEN, share=0.9), [box((-1, -1, 0), (1, 1, 2), GREEN)]),
    (prop("rowhouse", "building", main=GREEN, share=0.9), [box((-1, -1, 0), (1, 1, 2), GREEN)]),
)
PROPS = tuple(each for each, _ in OBJECTS)


def mesh(key):
    """One of the objects, in the rig's world."""
    return next(place(Mesh(tuple(parts)), "z") for each, parts in OBJECTS if each.id == key)


def write(path):
    """The pack of all objects."""
    write_pack(path, ((Source(each.id, f"{each.id}.glb", each.id, {}), mesh(each.id)) for each in PROPS))
    return path
