"""Props: meshes made by people, varied in colour, material, size, light and company, with captions that say it.

`scenes` says what an example shows, from its index alone; `turntables` draws it, from one pack of meshes.
"""

from im3d_jax.data.props.catalogue import Prop, catalogue
from im3d_jax.data.props.processes import PropProcesses
from im3d_jax.data.props.scenes import PropScenes, Scene, vocabulary
from im3d_jax.data.props.turntables import PropTurntables


__all__ = ["Prop", "PropProcesses", "PropScenes", "PropTurntables", "Scene", "catalogue", "vocabulary"]
