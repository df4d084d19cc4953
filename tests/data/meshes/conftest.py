"""A renderer, without which tests skip, and a reader of glTF that is given bytes."""

import dataclasses

import pytest

from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.gltf import read_gltf
from im3d_jax.data.meshes.model import Limits
from im3d_jax.data.meshes.renderer import Renderer
from im3d_jax.errors import InputError


@pytest.fixture(scope="session")
def renderer():
    """An OpenGL renderer, shared by all tests of a process."""
    pytest.importorskip("moderngl")
    try:
        made = Renderer()
    except InputError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture
def read_file(tmp_path):
    """Writes bytes or text and reads them as glTF, y up."""

    def read(content, name="mesh.glb", **limits):
        path = tmp_path / "meshes" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        limits = dataclasses.replace(Limits(), **limits)
        return read_gltf(Files(path, None, limits), limits)

    return read
