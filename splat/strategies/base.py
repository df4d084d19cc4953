"""What a fitting loop asks of a strategy of density control."""

import abc
import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from splat.gaussians import Gaussians
from splat.typing import LeafArray, Placeholder, Scalar


class ScreenStatistics(flax.struct.PyTreeNode):
    """Screen-space gradients since the last refinement.

    Attributes:
        gradients: [N] sum of the gradient lengths over the views that saw the gaussian, in units of half the image.
        counts: [N] number of views that saw the gaussian.
    """

    gradients: Float[LeafArray, "N"] | Placeholder
    counts: Float[LeafArray, "N"] | Placeholder


class Refined(flax.struct.PyTreeNode):
    """Result of `Strategy.refine`.

    Attributes:
        gaussians: N rows, some replaced.
        active: [N] bool.
        fresh: [N] bool, rows that hold another gaussian than before: their optimizer moments must be zeroed.
    """

    gaussians: Gaussians | Placeholder
    active: Bool[LeafArray, "N"] | Placeholder
    fresh: Bool[LeafArray, "N"] | Placeholder


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """Rules by which the gaussians of a fit grow, move and leave; hashable, thus static under jit.

    Arrays keep their length N; a mask `active` [N] says which rows exist, and a new gaussian takes a free row. A
    strategy must define `refine`. The other methods are hooks of the fitting loop that do nothing by default:

    - before the first step: `init_statistics`;
    - in each step: `regularizer` (part of the loss), `accumulate` (after the gradient), `perturb` (after the
      optimizer);
    - every some steps, outside jit: `refine`, and where `resets_opacities` says so `reset_opacities`.

    Attributes:
        name: Constant of the class, so that saved settings say which strategy they belong to.
    """

    name: str = dataclasses.field(init=False)

    def init_statistics(self, count: int) -> ScreenStatistics | None:
        """Statistics of N = `count` gaussians before the first step; None if the strategy needs none."""
        del count
        return None

    def accumulate(
        self,
        statistics: ScreenStatistics,
        gradients: Float[Array, "V N 2"],
        visible: Bool[Array, "V N"],
        width: int,
        height: int,
    ) -> ScreenStatistics:
        """Adds the views of one step; not called where `init_statistics` gives None.

        Args:
            statistics: So far.
            gradients: [V, N, 2] gradient of the loss, a mean over the V views, to the projected means in pixels.
            visible: [V, N] bool, the gaussian touches a pixel of the view.
            width: Image width in pixels.
            height: Image height in pixels.

        Returns:
            The statistics including these views.
        """
        del gradients, visible, width, height
        return statistics

    @abc.abstractmethod
    def refine(
        self,
        key: PRNGKeyArray,
        gaussians: Gaussians,
        active: Bool[Array, "N"],
        statistics: ScreenStatistics | None,
        extent: Scalar,
    ) -> Refined:
        """Adds, moves and removes gaussians.

        Args:
            key: PRNG key, a new one each call.
            gaussians: N rows.
            active: [N] bool.
            statistics: Since the last call; the caller starts new ones afterwards.
            extent: Size of the scene in world units.

        Returns:
            `Refined`, with at most N active rows.
        """

    def resets_opacities(self, step: int) -> bool:
        """Whether `reset_opacities` is due before step number `step` (from 0)."""
        del step
        return False

    def reset_opacities(self, opacity_logits: Float[Array, "N"]) -> Float[Array, "N"]:
        """Logits [N] after a reset; the caller zeroes their optimizer moments."""
        return opacity_logits

    def perturb(self, key: PRNGKeyArray, gaussians: Gaussians, learning_rate: Scalar) -> Float[Array, "N 3"]:
        """Means [N, 3] after the exploration noise of one step.

        Args:
            key: PRNG key, a new one each step.
            gaussians: N rows after the optimizer's step.
            learning_rate: Learning rate of the means at this step, in world units.
        """
        del key, learning_rate
        return gaussians.means

    def regularizer(self, gaussians: Gaussians, active: Bool[Array, "N"]) -> Float[Array, ""]:
        """Term [] to add to the loss; 0 by default."""
        del gaussians, active
        return jnp.zeros(())
