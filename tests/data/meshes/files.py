"""Small mesh files, written by hand, with colours and shapes that tests know."""

import base64
import io
import json
import struct

import numpy as np
from PIL import Image


# A cube's sides in glTF's axes: (outward axis, sign). The front, +z, is what the first camera sees.
SIDES = {"right": (0, 1), "left": (0, -1), "top": (1, 1), "bottom": (1, -1), "front": (2, 1), "back": (2, -1)}
# Linear factors, none of them grey.
FACTORS = {
    "front": (0.5, 0.0, 0.0), "back": (0.0, 0.2, 0.0), "right": (0.0, 0.0, 0.8), "left": (0.8, 0.8, 0.0),
    "top": (0.0, 0.5, 0.5), "bottom": (0.3, 0.0, 0.6),
}  # fmt: skip


def side_corners(axis, sign):
    """Four corners of a side of the cube [-1, 1]^3, counter-clockwise seen from outside: [4, 3]."""
    normal = np.zeros(3)
    normal[axis] = sign
    a = np.roll(np.abs(normal), 1)
    b = np.cross(normal, a)
    return np.stack([normal + u * a + v * b for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]).astype(np.float32)


QUAD = np.array([[0, 1, 2], [0, 2, 3]], np.uint16)
QUAD_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
_TYPES = {np.dtype(np.float32): 5126, np.dtype(np.uint32): 5125, np.dtype(np.uint16): 5123, np.dtype(np.uint8): 5121}
_WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """Gathers a glTF document and its buffer."""

    def __init__(self):
        self.data = b""
        self.document = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}], "nodes": [], "meshes": [],
            "materials": [], "accessors": [], "bufferViews": [], "textures": [], "images": [], "samplers": [],
        }  # fmt: skip

    def add(self, name, item):
        """Appends to a list of the document; its number."""
        self.document[name].append(item)
        return len(self.document[name]) - 1

    def view(self, content):
        self.data += b"\0" * (-len(self.data) % 4)
        place = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.data += content
        return self.add("bufferViews", place)

    def accessor(self, array, **more):
        array = np.asarray(array)
        width = 1 if array.ndim == 1 else array.shape[1]
        entry = {"componentType": _TYPES[array.dtype], "count": len(array), "type": _WIDTHS[width]}
        return self.add("accessors", {**entry, "bufferView": self.view(array.tobytes()), **more})

    def material(self, factor=(1, 1, 1), *, opacity=1.0, **more):
        return self.add("materials", {"pbrMetallicRoughness": {"baseColorFactor": [*factor, opacity]}, **more})

    def picture(self, pixels, **sampler):
        """A texture of [H, W, 3 or 4] uint8; its number."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        image = self.add("images", {"bufferView": self.view(buffer.getvalue()), "mimeType": "image/png"})
        return self.add("textures", {"source": image, "sampler": self.add("samplers", sampler)})

    def primitive(self, positions, triangles=QUAD, *, material=None, mode=4, **attributes):
        entry = {"attributes": {"POSITION": self.accessor(np.asarray(positions, np.float32))}, "mode": mode}
        for name, array in attributes.items():
            entry["attributes"][name] = array if isinstance(array, int) else self.accessor(array)
        if triangles is not None:
            entry["indices"] = self.accessor(np.asarray(triangles).reshape(-1))
        if material is not None:
            entry["material"] = material
        return entry

    def node(self, primitives, **more):
        """A mesh in the scene; the node's number."""
        number = self.add("nodes", {"mesh": self.add("meshes", {"primitives": primitives}), **more})
        self.document["scenes"][0]["nodes"].append(number)
        return number

    def cube(self, factors=FACTORS, **node):
        """A cube without normals, one material a side."""
        sides = [
            self.primitive(side_corners(*SIDES[name]), material=self.material(factor))
            for name, factor in factors.items()
        ]
        return self.node(sides, **node)

    def _finished(self):
        document = {name: value for name, value in self.document.items() if value != []}
        return {**document, "buffers": [{"byteLength": len(self.data)}]}

    def glb(self):
        """Bytes of a .glb file."""
        text = json.dumps(self._finished()).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + b"\0" * (-len(self.data) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def gltf(self):
        """Text of a .gltf file with its buffer in a data URI."""
        document = self._finished()
        document["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
        return json.dumps(document)


def cube_glb(**node):
    """Bytes of a cube of `FACTORS`."""
    gltf = Gltf()
    gltf.cube(**node)
    return gltf.glb()


CUBE_OBJ = """# a cube, y up, front +z
mtllib cube.mtl
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
usemtl red
f 5 6 7 8
usemtl blue paint
f 2 1 4 3
f -6 -2 -3 -7
f 1 5 8 4
f 8 7 3 4
f 1 2 6 5
"""
CUBE_MTL = """newmtl red
Kd 0.8 0.1 0.1
newmtl blue paint
Kd 0.1 0.2 0.9
"""
