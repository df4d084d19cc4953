"""Classifier-free guidance: nested conditions with one scale each, or one condition with a scale for each frame.

Nested guidance is Emu Video's (2311.10709, eq. 1, after InstructPix2Pix): X(∅) + w_i (X(I) - X(∅)) + w_p (X(I, p) -
X(I)); without an image X(∅) + w_p (X(p) - X(∅)); without a prompt X(∅) + w_i (X(I) - X(∅)). SVD's and SV3D's guidance
has a scale for each frame: SVD's rises from the given frame, SV3D's is highest behind the object.

All branches of a step run in one batched network call, sample-major: row ``b * branches + k`` is branch k of sample b,
so that a batch sharded over devices stays where it is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from im3d_jax.diffusion.prediction import Prediction, convert_prediction
from im3d_jax.diffusion.process import NoiseProcess
from im3d_jax.typing import AnyArray, Scalar


Step = int | Int[AnyArray, ""]
Network = Callable[[jax.Array, Scalar, Step], jax.Array]
Curve = Literal["constant", "linear", "triangle"]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Guidance scales and remedies for overexposure. Static and hashable.

    Attributes:
        image: Scale w_i of the image condition, or None where there is no image.
        prompt: Scale w_p of the prompt, or None where there is none.
        rescale: Share phi in [0, 1] of the result whose standard deviation is set back to the conditional
            one.
        interval: Closed range of times with guidance (Kynkäänniemi et al. 2404.07724); outside it the fully
            conditional branch is taken as it is.
    """

    image: float | None = None
    prompt: float | None = None
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        for name, scale in (("image", self.image), ("prompt", self.prompt)):
            if scale is not None and not math.isfinite(scale):
                raise ValueError(f"the {name} guidance scale must be a finite number or None, got {scale}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale must lie in [0, 1], got {self.rescale}")
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"a guidance interval needs 0 <= low <= high <= 1, got {self.interval}")

    @property
    def branches(self) -> tuple[tuple[bool, bool], ...]:
        """(image given, prompt given) of each branch that must be evaluated, the fully conditional one last.

        Branches whose coefficient is zero are left out: one branch at scales of 1, two where both scales are
        equal.
        """
        return self._plan()[0]

    @property
    def weights(self) -> tuple[float, ...]:
        """Scales between successive ``branches``: one fewer than those."""
        return self._plan()[1]

    def _plan(self) -> tuple[tuple[tuple[bool, bool], ...], tuple[float, ...]]:
        branches, weights = [(False, False)], []
        if self.image is not None:
            branches.append((True, False))
            weights.append(float(self.image))
        if self.prompt is not None:
            branches.append((self.image is not None, True))
            weights.append(float(self.prompt))
        if len(weights) == 2 and weights[0] == weights[1]:
            del branches[1], weights[1]
        if weights and weights[0] == 1:
            del branches[0], weights[0]
        return tuple(branches), tuple(weights)


def guide(
    branches: Float[AnyArray, "..."], weights: Sequence[Scalar | Float[AnyArray, "..."]], *, axis: int = 0
) -> Float[Array, "..."]:
    """Nested guidance b_0 + Σ_k w_k (b_k - b_(k-1)).

    Args:
        branches: Predictions stacked along ``axis``, from unconditional to fully conditional, n + 1 of them.
        weights: n scales: numbers, or arrays of a branch's rank that broadcast against it (a scale for each
            frame).
        axis: The axis of the branches.

    Returns:
        The guided prediction, without that axis, in the branches' dtype.
    """
    count = branches.shape[axis]
    if count != len(weights) + 1:
        raise ValueError(f"{len(weights)} guidance weights need {len(weights) + 1} branches, got {count}")
    working = jnp.promote_types(branches.dtype, jnp.float32)
    stacked = jnp.asarray(branches)
    parts = [jax.lax.index_in_dim(stacked, k, axis, keepdims=False).astype(working) for k in range(count)]
    guided = parts[0]
    for weight, less, more in zip(weights, parts[:-1], parts[1:], strict=True):
        guided = guided + weight * (more - less)
    return guided.astype(branches.dtype)


def rescale_guidance(
    guided: Float[AnyArray, "batch *shape"], conditional: Float[AnyArray, "batch *shape"], phi: float
) -> Float[Array, "batch *shape"]:
    """Sets the guided prediction's standard deviation back towards the conditional one's.

    Lin et al. 2305.08891, eq. 15-16: phi · guided · std(conditional) / std(guided) + (1 - phi) · guided, the
    deviations taken over all axes but the batch.

    Args:
        guided: ``[B, …]`` guided prediction.
        conditional: ``[B, …]`` fully conditional prediction.
        phi: Share in [0, 1]; the paper uses 0.7.
    """
    working = jnp.promote_types(guided.dtype, jnp.float32)
    axes = tuple(range(1, guided.ndim))
    wanted = jnp.std(jnp.asarray(conditional, working), axis=axes, keepdims=True)
    found = jnp.std(jnp.asarray(guided, working), axis=axes, keepdims=True)
    # A constant prediction has no deviation to correct.
    ratio = jnp.where(found > 0, wanted / jnp.where(found > 0, found, 1.0), 1.0)
    return (jnp.asarray(guided, working) * (phi * ratio + (1 - phi))).astype(guided.dtype)


def stack_conditions(
    guidance: Guidance, *, image: Any = None, no_image: Any = None, prompt: Any = None, no_prompt: Any = None
) -> tuple[Any, Any]:
    """Conditions for the batched call of ``guided_denoiser``.

    Args:
        guidance: Says which branches there are.
        image: Pytree of arrays ``[B, …]``: the image condition.
        no_image: Same structure and shapes: its absence (zeros for a zero-padded latent and mask).
        prompt: Pytree of arrays ``[B, …]``: the prompt condition.
        no_prompt: Same structure and shapes: its absence.

    Returns:
        (image, prompt) with arrays ``[B · branches, …]``, sample-major. A condition given as None stays None.
    """
    with_image, with_prompt = zip(*guidance.branches, strict=True)

    def stack(present, absent, chosen):
        def leaf(yes, no):
            stacked = jnp.stack([yes if given else no for given in chosen], axis=1)
            return stacked.reshape((-1,) + stacked.shape[2:])

        return jax.tree.map(leaf, present, absent)

    return stack(image, no_image, with_image), stack(prompt, no_prompt, with_prompt)


def guided_denoiser(
    network: Network, guidance: Guidance, process: NoiseProcess, prediction: Prediction
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A sampler's denoiser out of a network: one batched call, guidance on its own prediction, then x̂.

    Args:
        network: ``network(x [B · branches, …], t scalar, index scalar) -> prediction`` of the same shape; its
            conditions come from ``stack_conditions``.
        guidance: Scales; with one branch the network is called on the samples themselves.
        process: The noise process.
        prediction: What the network predicts.

    Returns:
        ``denoise(x [B, …], t, index) -> x̂ [B, …]``.
    """
    count = len(guidance.branches)
    low, high = guidance.interval

    def denoise(x: Float[Array, "batch *shape"], t: Scalar, index: Step) -> Float[Array, "batch *shape"]:
        if count == 1:
            return convert_prediction(network(x, t, index), x, t, process, prediction, "x0")
        value = network(jnp.repeat(x, count, axis=0), t, index)
        branches = value.reshape((x.shape[0], count) + x.shape[1:])
        conditional = branches[:, -1]
        guided = guide(branches, guidance.weights, axis=1)
        if guidance.rescale:
            guided = rescale_guidance(guided, conditional, guidance.rescale)
        if (low, high) != (0.0, 1.0):
            guided = jnp.where((t >= low) & (t <= high), guided, conditional)
        return convert_prediction(guided, x, t, process, prediction, "x0")

    return denoise


def network_evaluations(guidance: Guidance, steps: int) -> int:
    """Network evaluations for one sample: branches × steps (all of them, outside the interval as well)."""
    return len(guidance.branches) * steps


def frame_scales(curve: Curve, frames: int, low: float, high: float) -> Float[np.ndarray, " {frames}"]:
    """Guidance scales of the frames, [frames] float32.

    Args:
        curve: ``constant``: high everywhere; ``linear``: low at the first frame to high at the last (SVD: 1 to 3);
            ``triangle``: low at both ends, high in the middle (SV3D: 1 to 2.5, in the network's order of frames).
        frames: Number of frames.
        low: Smallest scale.
        high: Largest scale; the triangle of an even number of frames stays just below it.

    Raises:
        ValueError: For an unknown curve or no frames.
    """
    if frames < 1:
        raise ValueError(f"guidance needs one frame or more, got {frames}")
    place = np.linspace(0, 1, frames)
    if curve == "constant":
        share = np.ones(frames)
    elif curve == "linear":
        share = place
    elif curve == "triangle":
        share = 2 * np.minimum(place, 1 - place)
    else:
        raise ValueError(f"unknown guidance curve {curve!r}: expected constant, linear or triangle")
    return (low + share * (high - low)).astype(np.float32)


def frame_guided_denoiser(
    network: Network, scales: Float[AnyArray, " frames"], process: NoiseProcess, prediction: Prediction
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A sampler's denoiser with X(∅) + w_frame (X(I) - X(∅)); the companion of ``guided_denoiser``.

    Args:
        network: ``network(x [2 B, T, …], t scalar, index scalar) -> prediction``; rows 2 b and 2 b + 1 are sample b
            without and with its conditions, as ``stack_conditions`` lays them out for ``Guidance(image=…)``.
        scales: [T], from ``frame_scales``.
        process: The noise process.
        prediction: What the network predicts.

    Returns:
        ``denoise(x [B, T, …], t, index) -> x̂ [B, T, …]``.
    """

    def denoise(x: Float[Array, "batch t *shape"], t: Scalar, index: Step) -> Float[Array, "batch t *shape"]:
        if len(scales) != x.shape[1]:
            raise ValueError(f"{len(scales)} guidance scales do not match samples of {x.shape[1]} frames")
        value = network(jnp.repeat(x, 2, axis=0), t, index)
        branches = value.reshape((x.shape[0], 2) + x.shape[1:])
        weights = jnp.asarray(scales, jnp.float32).reshape((1, -1) + (1,) * (x.ndim - 2))
        return convert_prediction(guide(branches, [weights], axis=1), x, t, process, prediction, "x0")

    return denoise
