"""Draws meshes from the turntable's cameras with OpenGL: on a GPU, or on CPUs by Mesa's llvmpipe; no display needed.

Every pixel is the mean of 4 x 4 samples, each shaded; opaque surfaces are drawn from both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from im3d_jax.data.meshes import rig, shaders
from im3d_jax.data.meshes.model import Material, Mesh, Part, Texture
from im3d_jax.errors import InputError


SUPERSAMPLING = 4
_SRGB8_ALPHA8 = 0x8C43
_ALPHA_MODES = {"opaque": 0, "mask": 1, "blend": 2}
_LAYOUT = ("3f 3f 2f 4f", "position", "normal", "uv", "colour")
_NO_EGL = (
    "no OpenGL without a display ({reason}); install Mesa's software renderer "
    "(Debian: apt-get install libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri) or a GPU's driver"
)


class Renderer:
    """An OpenGL context. Belongs to one thread; use it as a context manager.

    Raises:
        InputError: moderngl is not installed, or there is no EGL.
    """

    def __init__(self):
        self._gl = create_context()
        self._surface = self._gl.program(vertex_shader=shaders.VERTEX, fragment_shader=shaders.SURFACE)
        self._resolve = self._gl.program(vertex_shader=shaders.SCREEN, fragment_shader=shaders.RESOLVE)
        corners = np.array([-1, -1, 3, -1, -1, 3], "f4")
        self._screen = self._gl.vertex_array(self._resolve, [(self._gl.buffer(corners), "2f", "corner")])
        self._white = self._gl.texture((1, 1), 4, b"\xff" * 4)
        self._targets: _Targets | None = None

    @property
    def device(self) -> str:
        """Who draws: the name of the GPU, or llvmpipe."""
        return self._gl.info["GL_RENDERER"]

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._gl.release()

    def render(self, mesh: Mesh, azimuths: np.ndarray, elevations: np.ndarray, size: int) -> np.ndarray:
        """Draws one mesh from some cameras of the rig.

        Args:
            mesh: In the rig's world (see `placing`).
            azimuths: [F], radians.
            elevations: [F], radians, within 89 degrees.
            size: Side of the pictures, pixels.

        Returns:
            [F, size, size, 4] uint8, sRGB and straight alpha; 0 where nothing is covered.
        """
        if self._targets is None or self._targets.size != size:
            if self._targets is not None:
                self._targets.release()
            self._targets = _Targets(self._gl, size)
        scene = _Scene(self._gl, self._surface, mesh, self._white)
        try:
            frames = np.empty((len(azimuths), size, size, 4), np.uint8)
            for frame, azimuth, elevation in zip(frames, azimuths, elevations, strict=True):
                self._draw(scene, float(azimuth), float(elevation), frame)
            return frames
        finally:
            scene.release()

    def _draw(self, scene: _Scene, azimuth: float, elevation: float, frame: np.ndarray) -> None:
        targets = self._targets
        assert targets is not None
        eye = rig.eye(azimuth, elevation)
        self._surface["world_to_clip"].write(rig.world_to_clip(azimuth, elevation).T.astype("f4").tobytes())
        self._surface["eye"].value = tuple(eye)
        targets.samples.use()
        targets.samples.clear(0.0, 0.0, 0.0, 0.0)
        scene.draw(targets.samples, eye)
        self._gl.disable(self._gl.DEPTH_TEST | self._gl.BLEND)
        targets.pixels.use()
        targets.colour.use(0)
        self._resolve["samples"].value = 0
        self._resolve["side"].value = SUPERSAMPLING
        self._screen.render(vertices=3)
        targets.pixels.read_into(frame, components=4)


class _Targets:
    """The picture of samples, and the picture of pixels."""

    def __init__(self, gl: Any, size: int):
        self.size = size
        wide = (size * SUPERSAMPLING, size * SUPERSAMPLING)
        self.colour = gl.texture(wide, 4)
        self._owned = [self.colour, gl.depth_renderbuffer(wide), gl.renderbuffer((size, size), 4)]
        self.samples = gl.framebuffer([self.colour], self._owned[1])
        self.pixels = gl.framebuffer([self._owned[2]])

    def release(self) -> None:
        for item in (self.samples, self.pixels, *self._owned):
            item.release()


class _Scene:
    """A mesh on the device."""

    def __init__(self, gl: Any, program: Any, mesh: Mesh, white: Any):
        self._gl, self._program, self._white = gl, program, white
        self._textures: dict[int, tuple[Any, tuple[float, float]]] = {}
        self._owned: list[Any] = []
        solid = [part for part in mesh.parts if part.material.alpha != "blend"]
        clear = [part for part in mesh.parts if part.material.alpha == "blend"]
        self._solid = [(part, self._upload(part, part.triangles)[0]) for part in solid]
        self._clear = [(part, *self._upload(part, part.triangles)) for part in clear]
        self._middles = [part.positions[part.triangles].mean(1) for part in clear]

    def _upload(self, part: Part, triangles: np.ndarray) -> tuple[Any, Any]:
        table = np.zeros((len(part.positions), 12), "f4")
        table[:, 0:3] = part.positions
        if part.normals is not None:
            table[:, 3:6] = part.normals
        if part.uv is not None:
            table[:, 6:8] = part.uv
        table[:, 8:12] = 1.0 if part.colours is None else part.colours
        vertices = self._gl.buffer(table.tobytes())
        indices = self._gl.buffer(np.ascontiguousarray(triangles, "u4").tobytes())
        array = self._gl.vertex_array(self._program, [(vertices, *_LAYOUT)], indices)
        self._owned += [array, vertices, indices]
        return array, indices

    def draw(self, target: Any, eye: np.ndarray) -> None:
        gl = self._gl
        gl.enable(gl.DEPTH_TEST)
        gl.disable(gl.BLEND)
        gl.front_face = "cw"  # clip y points down
        gl.cull_face = "back"
        for part, array in self._solid:
            self._use(part.material, solid_only=True)
            self._set_culling(part.material)
            array.render()
        for part, array, _ in self._clear:
            self._use(part.material, solid_only=True)
            self._set_culling(part.material)
            array.render()
        # The other sides, a hair farther away: where a model has a face for either side, the right one stays.
        gl.enable(gl.CULL_FACE)
        gl.cull_face = "front"
        gl.polygon_offset = 1.0, 200.0
        for part, array in self._solid:
            if part.material.single_sided:
                self._use(part.material, solid_only=True)
                array.render()
        gl.polygon_offset = 0.0, 0.0
        gl.cull_face = "back"
        if self._clear:
            self._draw_clear(target, eye)
        gl.disable(gl.CULL_FACE)

    def _draw_clear(self, target: Any, eye: np.ndarray) -> None:
        """Blended surfaces over all others, far triangles first."""
        gl = self._gl
        gl.enable(gl.BLEND)
        gl.blend_func = gl.ONE, gl.ONE_MINUS_SRC_ALPHA
        target.depth_mask = False
        distances = [((middle - eye) ** 2).sum(-1) for middle in self._middles]
        for i in sorted(range(len(self._clear)), key=lambda i: -float(distances[i].mean())):
            part, array, indices = self._clear[i]
            order = np.argsort(-distances[i], kind="stable")
            indices.write(np.ascontiguousarray(part.triangles[order], "u4").tobytes())
            self._use(part.material, solid_only=False)
            self._set_culling(part.material)
            array.render()
        target.depth_mask = True

    def _set_culling(self, material: Material) -> None:
        (self._gl.enable if material.single_sided else self._gl.disable)(self._gl.CULL_FACE)

    def _use(self, material: Material, *, solid_only: bool) -> None:
        values = self._program
        picture, scale = self._texture(material.texture)
        glow, glow_scale = self._texture(material.emission_texture)
        picture.use(0)
        glow.use(1)
        values["picture"].value, values["glow"].value = 0, 1
        values["has_picture"].value = material.texture is not None
        values["has_glow"].value = material.emission_texture is not None
        values["uv_scale"].value = scale if material.texture is not None else glow_scale
        values["factor"].value, values["emission"].value = material.factor, material.emission
        values["alpha_mode"].value, values["cutoff"].value = _ALPHA_MODES[material.alpha], material.cutoff
        values["solid_only"].value = solid_only

    def _texture(self, texture: Texture | None) -> tuple[Any, tuple[float, float]]:
        """The texture on the device, and by what its coordinates are multiplied."""
        if texture is None:
            return self._white, (1.0, 1.0)
        if id(texture) not in self._textures:
            pixels, scale = mirrored(texture)
            made = self._gl.texture(pixels.shape[1::-1], 4, pixels.tobytes(), internal_format=_SRGB8_ALPHA8)
            made.build_mipmaps()
            made.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.NEAREST if texture.nearest else self._gl.LINEAR)
            made.repeat_x, made.repeat_y = (wrap != "clamp" for wrap in texture.wrap)
            self._textures[id(texture)] = made, scale
            self._owned.append(made)
        return self._textures[id(texture)]

    def release(self) -> None:
        for item in self._owned:
            item.release()


def mirrored(texture: Texture) -> tuple[np.ndarray, tuple[float, float]]:
    """A texture as a picture that repeats, and what coordinates are multiplied by: mirrored axes are doubled."""
    pixels, scale = texture.pixels, [1.0, 1.0]
    for axis, wrap in ((1, texture.wrap[0]), (0, texture.wrap[1])):
        if wrap == "mirror":
            pixels = np.concatenate([pixels, np.flip(pixels, axis)], axis)
            scale[1 - axis] = 0.5
    return np.ascontiguousarray(pixels), (scale[0], scale[1])


def create_context(gpu: int | None = None) -> Any:
    """An OpenGL context without a display.

    Args:
        gpu: Number of the EGL device; None takes EGL's first.

    Raises:
        InputError: moderngl is not installed, or there is no EGL.
    """
    try:
        import moderngl  # pyright: ignore[reportMissingImports]  # of an extra
    except ModuleNotFoundError:
        raise InputError("drawing meshes needs moderngl; install the extra [data], or pip install moderngl") from None
    reasons = []
    # Where only GLVND's own library is there, it has the same functions.
    for library in ("libGL.so.1", "libOpenGL.so.0"):
        try:
            settings: dict[str, Any] = {"backend": "egl", "libgl": library, "libegl": "libEGL.so.1"}
            if gpu is not None:
                settings["device_index"] = gpu
            return moderngl.create_context(standalone=True, **settings)
        except Exception as error:  # of several kinds, by what is missing
            reasons.append(str(error))
    raise InputError(_NO_EGL.format(reason=reasons[0]))
