"""Places the objects of a scene: on each other or beside each other, without touching more than they have to."""

from __future__ import annotations

import math

import numpy as np

from im3d_jax.data.meshes.model import Mesh
from im3d_jax.data.props.scenes import Part, Scene


_TOP = 0.86  # of the half width of a top: what stands on it keeps within


def arrange(scene: Scene, meshes: list[Mesh]) -> list[np.ndarray]:
    """World from object, [4, 4] float64 for column vectors, of each part.

    The second object of "on" lies wholly below a level plane on which the first stands; the objects of "next to" stand
    on one level, on either side of an upright plane. So they never meet.

    Args:
        scene: What to place.
        meshes: Of its parts, in the rig's world.

    Returns:
        Transforms that put all vertices within `scene.radius` of the origin, up to rounding.
    """
    points = [np.concatenate([part.positions for part in mesh.parts]).astype(np.float64) for mesh in meshes]
    moves = [_turn_and_stretch(part) for part in scene.parts]
    placed = [each @ move[:3, :3].T for each, move in zip(points, moves, strict=True)]
    if scene.relation == "on":
        _stand_on(moves, placed, scene)
    elif scene.relation == "next to":
        _stand_beside(moves, placed, scene)
    everything = np.concatenate(placed)
    centre = 0.5 * (everything.min(0) + everything.max(0))
    scale = scene.radius / float(np.sqrt(((everything - centre) ** 2).sum(-1).max()))
    whole = _scaling(scale) @ _translation(-centre)
    whole = _yaw(scene.yaw) @ whole
    return [whole @ move for move in moves]


def _stand_on(moves: list[np.ndarray], placed: list[np.ndarray], scene: Scene) -> None:
    """The first object on the second's top, at most `ratio` as wide and at most 1.3 times as high as it."""
    low, high = placed[1].min(0), placed[1].max(0)
    room = _TOP * (high - low)[:2] * scene.ratio
    size = np.ptp(placed[0], axis=0)
    widest = max(float((high - low).max()), 1e-6)
    scale = min(*(room / np.maximum(size[:2], 1e-6)), 1.3 * scene.ratio * widest / max(float(size[2]), 1e-6))
    _move(moves, placed, 0, _scaling(float(scale)))
    bottom, top = placed[0].min(0), placed[0].max(0)
    free = 0.5 * (1.0 - scene.ratio) * room * scene.side * np.array([0.3, 0.3])
    target = np.array([*(0.5 * (low + high)[:2] + free), high[2]])
    foot = np.array([*(0.5 * (bottom + top)[:2]), bottom[2]])
    _move(moves, placed, 0, _translation(target - foot))


def _stand_beside(moves: list[np.ndarray], placed: list[np.ndarray], scene: Scene) -> None:
    """Side by side along y, the second `ratio` times as large as the first."""
    sizes = [float(np.sqrt((np.ptp(each, axis=0) ** 2).sum())) for each in placed]
    _move(moves, placed, 1, _scaling(scene.ratio * sizes[0] / max(sizes[1], 1e-6)))
    for number in range(2):
        low, high = placed[number].min(0), placed[number].max(0)
        inner = low[1] if (number == 1) == (scene.side == 1) else high[1]
        target = 0.5 * scene.gap * scene.side * (1.0 if number else -1.0)
        middle = 0.5 * (low[0] + high[0])
        _move(moves, placed, number, _translation(np.array([-middle, target - inner, -low[2]])))


def _move(moves: list[np.ndarray], placed: list[np.ndarray], number: int, move: np.ndarray) -> None:
    moves[number] = move @ moves[number]
    placed[number] = placed[number] @ move[:3, :3].T + move[:3, 3]


def _turn_and_stretch(part: Part) -> np.ndarray:
    return _yaw(part.yaw) @ np.diag([*part.stretch, 1.0])


def _yaw(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    move = np.eye(4)
    move[:2, :2] = [[c, -s], [s, c]]
    return move


def _scaling(scale: float) -> np.ndarray:
    return np.diag([scale, scale, scale, 1.0])


def _translation(shift: np.ndarray) -> np.ndarray:
    move = np.eye(4)
    move[:3, 3] = shift
    return move
