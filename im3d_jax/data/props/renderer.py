"""Draws arrangements of props with OpenGL. Meshes, pictures and shaders stay on the device between turntables."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.model import Material, Mesh, Part, Texture, to_linear
from im3d_jax.data.meshes.renderer import create_context, mirrored
from im3d_jax.data.meshes.shaders import SCREEN
from im3d_jax.data.props import shaders
from im3d_jax.data.props.paints import SCOPES, Paint


SUPERSAMPLING = 4
_SRGB8_ALPHA8 = 0x8C43
_ALPHA_MODES = {"opaque": 0, "mask": 1, "blend": 2}
_LAYOUT = ("3f 3f 2f 4f", "position", "normal", "uv", "colour")
_KEPT_BYTES = 1 << 29  # of vertices on the device
# How much of the lightness of what lies below a paint stays visible.
_KEEP = {"none": 0.0, "main": 1.0, "all": 0.65}


@dataclasses.dataclass(frozen=True)
class Light:
    """Light of a scene; the values of the rig by default.

    Attributes:
        strengths: Ambient, sky, key and fill.
        key: Unit vector towards the key light.
        fill: Unit vector towards the fill light.
    """

    strengths: tuple[float, float, float, float] = (rig.AMBIENT, rig.SKY, rig.KEY, rig.FILL)
    key: tuple[float, float, float] = rig.KEY_LIGHT
    fill: tuple[float, float, float] = rig.FILL_LIGHT


ALBEDO = Light((1.0, 0.0, 0.0, 0.0))  # shows colours as they are


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One object of an arrangement.

    Attributes:
        key: Equal keys mean equal meshes: what is on the device is used again.
        mesh: As the pack has it.
        transform: [4, 4] float64, world from object, for column vectors; without mirroring.
        paint: What it is painted with.
        main: sRGB of its main colour.
        seed: [3], moves the patterns of materials.
    """

    key: int
    mesh: Mesh
    transform: np.ndarray
    paint: Paint = Paint()
    main: tuple[float, float, float] = (0.8, 0.8, 0.8)
    seed: tuple[float, float, float] = (0.0, 0.0, 0.0)


class PropRenderer:
    """An OpenGL context for props. Belongs to one thread.

    Args:
        size: Side of the pictures, pixels.
        frames: The most frames that one call draws.
        gpu: Number of the EGL device; None takes EGL's first.

    Raises:
        InputError: moderngl is not installed, or there is no EGL.
    """

    def __init__(self, size: int, frames: int, *, gpu: int | None = None):
        self._gl = gl = create_context(gpu)
        self._size, self._frames = size, frames
        self._programs: dict[str | None, Any] = {}
        self._resolve = gl.program(vertex_shader=SCREEN, fragment_shader=shaders.RESOLVE)
        corners = np.array([-1, -1, 3, -1, -1, 3], "f4")
        self._screen = gl.vertex_array(self._resolve, [(gl.buffer(corners), "2f", "corner")])
        self._white = gl.texture((1, 1), 4, b"\xff" * 4)
        wide = (size * SUPERSAMPLING, size * SUPERSAMPLING)
        self._colour = gl.texture(wide, 4)
        self._samples = gl.framebuffer([self._colour], gl.depth_renderbuffer(wide))
        self._pixels = gl.framebuffer([gl.renderbuffer((size, size * frames), 4)])
        self._textures: dict[int, tuple[Texture, Any, tuple[float, float]]] = {}
        self._models: collections.OrderedDict[int, _Model] = collections.OrderedDict()
        self._resolve["samples"].value, self._resolve["side"].value = 0, SUPERSAMPLING

    @property
    def device(self) -> str:
        """Who draws: the name of the GPU, or llvmpipe."""
        return self._gl.info["GL_RENDERER"]

    def close(self) -> None:
        """Frees the context."""
        self._gl.release()

    def render(
        self, items: Sequence[Item], azimuths: np.ndarray, elevations: np.ndarray, light: Light | None = None
    ) -> np.ndarray:
        """Draws an arrangement.

        Args:
            items: Its objects, within 1 of the origin.
            azimuths: [F], radians.
            elevations: [F], radians, within 89 degrees.
            light: The rig's, where it is None.

        Returns:
            [F, size, size, 4] uint8, sRGB and straight alpha; 0 where nothing is covered.

        Raises:
            ValueError: More frames than were asked for.
        """
        if len(azimuths) > self._frames:
            raise ValueError(f"{len(azimuths)} frames; this renderer was made for at most {self._frames}")
        with self._gl:  # a thread may have several contexts
            return self._render_frames(items, azimuths, elevations, Light() if light is None else light)

    def _render_frames(
        self, items: Sequence[Item], azimuths: np.ndarray, elevations: np.ndarray, light: Light
    ) -> np.ndarray:
        count, size = len(azimuths), self._size
        scene = [(item, self._model(item), self._program(item.paint)) for item in items]
        for _, _, program in scene:
            _set_light(program, light)
        for frame, (azimuth, elevation) in enumerate(zip(azimuths, elevations, strict=True)):
            self._draw(scene, float(azimuth), float(elevation))
            self._gl.disable(self._gl.DEPTH_TEST | self._gl.BLEND)
            self._pixels.use()
            self._pixels.viewport = (0, frame * size, size, size)
            self._colour.use(0)
            self._resolve["first_row"].value = frame * size
            self._screen.render(vertices=3)
        self._pixels.viewport = (0, 0, size, count * size)
        content = self._pixels.read(viewport=(0, 0, size, count * size), components=4)
        return np.frombuffer(content, np.uint8).reshape(count, size, size, 4)

    def _program(self, paint: Paint) -> Any:
        """The program of a paint; compiled when it is first used."""
        surface = None if paint.scope == "none" else paint.surface
        if surface not in self._programs:
            made = self._gl.program(vertex_shader=shaders.VERTEX, fragment_shader=shaders.surface_shader(surface))
            _set(made, picture=0, glow=1)
            self._programs[surface] = made
        return self._programs[surface]

    def _draw(self, scene: list[tuple[Item, _Model, Any]], azimuth: float, elevation: float) -> None:
        gl = self._gl
        eye = rig.eye(azimuth, elevation)
        clip = rig.world_to_clip(azimuth, elevation).T.astype("f4").tobytes()
        for _, _, program in scene:
            program["world_to_clip"].write(clip)
            _set(program, eye=tuple(eye))
        self._samples.use()
        self._samples.clear(0.0, 0.0, 0.0, 0.0)
        gl.enable(gl.DEPTH_TEST)
        gl.front_face = "cw"  # clip y points down
        clear = []
        for item, model, program in scene:
            _place(program, item, model)
            gl.cull_face = "back"
            for group in model.groups:
                self._render_group(program, group, solid_only=True)
                if group.middles is not None:
                    clear.append((item, model, program, group))
            # The other sides, a hair farther away: where a model has a face for either side, the right one stays.
            gl.cull_face = "front"
            gl.polygon_offset = 1.0, 200.0
            for group in model.groups:
                if group.material.single_sided and group.middles is None:
                    self._render_group(program, group, solid_only=True)
            gl.polygon_offset = 0.0, 0.0
        gl.cull_face = "back"
        if clear:
            self._draw_clear(clear, eye)
        gl.disable(gl.CULL_FACE)

    def _draw_clear(self, groups: list[tuple[Item, _Model, Any, _Group]], eye: np.ndarray) -> None:
        """Blended surfaces over all others, far triangles first."""
        gl = self._gl
        gl.enable(gl.BLEND)
        gl.blend_func = gl.ONE, gl.ONE_MINUS_SRC_ALPHA
        self._samples.depth_mask = False
        distances = [
            ((group.middles @ item.transform[:3, :3].T + item.transform[:3, 3] - eye) ** 2).sum(-1)
            for item, _, _, group in groups
        ]
        for i in sorted(range(len(groups)), key=lambda i: -float(distances[i].mean())):
            item, model, program, group = groups[i]
            order = np.argsort(-distances[i], kind="stable")
            group.indices.write(np.ascontiguousarray(group.triangles[order], "u4").tobytes())
            _place(program, item, model)
            self._render_group(program, group, solid_only=False)
        self._samples.depth_mask = True
        gl.disable(gl.BLEND)

    def _render_group(self, program: Any, group: _Group, *, solid_only: bool) -> None:
        material = group.material
        (self._gl.enable if material.single_sided else self._gl.disable)(self._gl.CULL_FACE)
        picture, scale = self._texture(material.texture)
        glow, glow_scale = self._texture(material.emission_texture)
        picture.use(0)
        glow.use(1)
        _set(
            program,
            has_picture=material.texture is not None,
            has_glow=material.emission_texture is not None,
            uv_scale=scale if material.texture is not None else glow_scale,
            emission=material.emission,
            alpha_mode=_ALPHA_MODES[material.alpha],
            cutoff=material.cutoff,
            solid_only=solid_only,
        )
        group.array(self._gl, program).render()

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
            self._textures[id(texture)] = texture, made, scale  # keeps the texture, so that its id stays its own
        return self._textures[id(texture)][1:]

    def _model(self, item: Item) -> _Model:
        if item.key not in self._models:
            self._models[item.key] = _Model(self._gl, item.mesh)
            while sum(model.bytes for model in self._models.values()) > _KEPT_BYTES and len(self._models) > 2:
                self._models.popitem(last=False)[1].release()
        self._models.move_to_end(item.key)
        return self._models[item.key]


def _set(program: Any, **values: Any) -> None:
    """Sets uniforms; those that a program does not use are not there."""
    for name, value in values.items():
        if name in program:
            program[name].value = value


def _set_light(program: Any, light: Light) -> None:
    _set(program, light=light.strengths, key_light=light.key, fill_light=light.fill)


def _place(program: Any, item: Item, model: _Model) -> None:
    """What holds for all of an object."""
    program["world_from_object"].write(item.transform.T.astype("f4").tobytes())
    normals = np.linalg.inv(item.transform[:3, :3]).T
    program["normal_from_object"].write(normals.T.astype("f4").tobytes())
    if item.paint.colour is not None:
        _set(
            program,
            scope=SCOPES.index(item.paint.scope),
            paint=item.paint.colour,
            keep=_KEEP[item.paint.scope],
            main_lab=tuple(oklab(np.array(item.main)).tolist()),
            grain=model.grain,
            seed=item.seed,
        )


@dataclasses.dataclass(eq=False)
class _Group:
    """Triangles that are drawn in one go."""

    material: Material
    vertices: Any
    indices: Any
    triangles: np.ndarray
    middles: np.ndarray | None  # of blended triangles
    arrays: dict[int, Any] = dataclasses.field(default_factory=dict)

    def array(self, gl: Any, program: Any) -> Any:
        """The vertex array for a program."""
        if program.glo not in self.arrays:
            self.arrays[program.glo] = gl.vertex_array(
                program, [(self.vertices, *_LAYOUT)], self.indices, skip_errors=True
            )
        return self.arrays[program.glo]


class _Model:
    """A mesh on the device, its parts joined where they differ in a colour at most."""

    def __init__(self, gl: Any, mesh: Mesh):
        joined: dict[tuple, list[Part]] = {}
        for part in mesh.parts:
            material = part.material
            key = (
                id(material.texture), id(material.emission_texture), material.alpha, material.cutoff,
                material.emission, material.single_sided,
            )  # fmt: skip
            joined.setdefault(key, []).append(part)
        self.groups = [self._upload(gl, parts) for parts in joined.values()]
        self.bytes = sum(group.vertices.size + group.indices.size for group in self.groups)
        spread = np.concatenate([part.positions for part in mesh.parts]).std(0)
        self.grain = tuple(float(i == int(spread.argmax())) for i in range(3))

    @staticmethod
    def _upload(gl: Any, parts: list[Part]) -> _Group:
        tables, triangles, first = [], [], 0
        for part in parts:
            table = np.zeros((len(part.positions), 12), "f4")
            table[:, 0:3] = part.positions
            if part.normals is not None:
                table[:, 3:6] = part.normals
            if part.uv is not None:
                table[:, 6:8] = part.uv
            table[:, 8:12] = part.material.factor if part.colours is None else part.colours * part.material.factor
            tables.append(table)
            triangles.append(part.triangles + np.uint32(first))
            first += len(table)
        table, rows = np.concatenate(tables), np.concatenate(triangles)
        vertices = gl.buffer(table.tobytes())
        indices = gl.buffer(np.ascontiguousarray(rows, "u4").tobytes())
        middles = table[:, :3][rows].mean(1) if parts[0].material.alpha == "blend" else None
        return _Group(parts[0].material, vertices, indices, rows, middles)

    def release(self) -> None:
        for group in self.groups:
            for item in (*group.arrays.values(), group.vertices, group.indices):
                item.release()


def oklab(srgb: np.ndarray) -> np.ndarray:
    """sRGB values [..., 3] in [0, 1] as Oklab (Ottosson, "A perceptual color space for image processing", 2020)."""
    linear = to_linear(np.asarray(srgb)).astype(np.float64)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
