"""Files that a mesh file names: found inside of the data's folder only, and never larger than allowed."""

from __future__ import annotations

import base64
import binascii
import os
import pathlib
import urllib.parse

from im3d_jax.data.meshes.model import Limits, MeshError


class Files:
    """Reads a mesh file and what it refers to.

    Args:
        path: The mesh file.
        root: References may not leave this folder; the mesh file's own by default.
        limits: `file_bytes` of each file.
    """

    def __init__(self, path: pathlib.Path, root: pathlib.Path | None, limits: Limits):
        self.path = path
        self._folder = path.parent
        self._root = pathlib.Path(os.path.realpath(root or path.parent))
        self._limits = limits

    def main(self) -> bytes:
        """Content of the mesh file itself."""
        return self._read(self.path, self.path.name)

    def reference(self, uri: str) -> bytes:
        """Content of a file that the mesh names, or of a data URI.

        Raises:
            MeshError: It is missing, unreadable, too large, outside of the root, or of another scheme.
        """
        if uri.startswith("data:"):
            return _data_uri(uri)
        if "://" in uri:
            raise MeshError(f"refers to {uri[:80]}, which would have to be downloaded")
        name = urllib.parse.unquote(uri).replace("\\", "/")
        return self._read(self._folder / name, name)

    def exists(self, name: str) -> bool:
        """Whether `reference(name)` would find a file."""
        path = self._folder / name.replace("\\", "/")
        return os.path.isfile(path) and self._inside(path)

    def pictures_beside(self) -> list[str]:
        """Names of the picture files in the mesh file's folder, sorted."""
        suffixes = (".png", ".jpg", ".jpeg", ".webp")
        return sorted(item.name for item in self._folder.iterdir() if item.suffix.lower() in suffixes)

    def _inside(self, path: pathlib.Path) -> bool:
        return pathlib.Path(os.path.realpath(path)).is_relative_to(self._root)

    def _read(self, path: pathlib.Path, name: str) -> bytes:
        if not self._inside(path):
            raise MeshError(f"refers to {name[:200]}, which lies outside of the data's folder")
        if not os.path.isfile(path):
            raise MeshError(f"{name[:200]} is missing")
        try:
            size = os.path.getsize(path)
            if size > self._limits.file_bytes:
                most = f"{self._limits.file_bytes / 2**20:g} MiB"
                raise MeshError(f"{name[:200]} has {size / 2**20:.0f} MiB, more than {most}")
            return path.read_bytes()
        except OSError as error:
            raise MeshError(f"{name[:200]} cannot be read ({error.strerror or error})") from None


def _data_uri(uri: str) -> bytes:
    head, _, body = uri.partition(",")
    try:
        return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise MeshError("holds a damaged data URI") from None
