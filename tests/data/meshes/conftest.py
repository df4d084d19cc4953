"""A renderer for the tests that need one; they skip where there is no moderngl or no EGL."""

import pytest

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
