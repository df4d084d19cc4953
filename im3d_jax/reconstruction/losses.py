"""Image-level losses between rendered and target views (IM-3D, section 3.3, eq. 5)."""

import flax.struct
import jax
import jax.numpy as jnp

from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite, composite_on_white
from im3d_jax.images.resize import block_mean
from im3d_jax.models import perceptual
from im3d_jax.reconstruction.presets import FitConfig


@flax.struct.dataclass
class Targets:
    """Images to fit.

    Attributes:
        rgba: [V, H, W, 4] in [0, 1], straight alpha.
        valid: [V, H, W] bool of the pixels that count; None if all do.
    """

    rgba: jax.Array
    valid: jax.Array | None = None


def target_features(network: perceptual.Perceptual, rgba: jax.Array) -> list[jax.Array]:
    """Normalised feature maps of the targets [V, H, W, 4], one view at a time: once, not per step."""

    def one(view: jax.Array) -> list[jax.Array]:
        maps = perceptual.normalised(network.features(composite_on_white(view)[None]))
        return [feature[0] for feature in maps]

    return jax.lax.map(one, rgba)


def where_valid(
    rgb: jax.Array, alpha: jax.Array, target: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Renders whose pixels that do not count equal the target: no term sees them, and nothing flows back from them.

    Args:
        rgb: [B, H, W, 3] rendered over white.
        alpha: [B, H, W] rendered coverage.
        target: [B, H, W, 4] straight alpha.
        valid: [B, H, W] bool; None changes nothing.

    Returns:
        `rgb` and `alpha`.
    """
    if valid is None:
        return rgb, alpha
    return jnp.where(valid[..., None], rgb, composite(target)), jnp.where(valid, alpha, target[..., 3])


def term_weights(config: FitConfig, perceptual_network: bool) -> dict[str, float]:
    """The terms in use, by name, and their weights."""
    weights = {
        "perceptual": config.perceptual_weight if perceptual_network else 0.0,
        "ssim": config.ssim_weight,
        "mask": config.mask_weight,
        "l1": config.l1_weight,
        "colour": config.colour_weight,
    }
    return {name: weight for name, weight in weights.items() if weight > 0}


def view_loss(
    rgb: jax.Array,
    alpha: jax.Array,
    target: jax.Array,
    background: jax.Array,
    config: FitConfig,
    network: perceptual.Perceptual | None = None,
    features: list[jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of rendered views.

    Args:
        rgb: [B, H, W, 3] rendered over white.
        alpha: [B, H, W] rendered coverage.
        target: [B, H, W, 4] straight alpha.
        background: [3] colour on which the SSIM and L1 terms composite both.
        config: Weights of the terms; a term of weight zero is not computed.
        network: Of the perceptual term, or None to leave it out.
        features: The targets' maps as `target_features` gives them, for these views.

    Returns:
        The weighted sum, and the unweighted terms in use by name.
    """
    # Linear in the render: over white, and moved from there to any background without a division by alpha.
    shift = (1.0 - alpha)[..., None] * (background - 1.0)[None, None, None]
    shown = rgb + shift
    wanted = composite(target, background[None, None, None])
    weights = term_weights(config, network is not None)

    def term(name: str) -> jax.Array:
        if name == "perceptual":
            assert network is not None and features is not None  # else the term has no weight
            seen = network.features(jnp.concatenate([rgb, alpha[..., None]], axis=-1))
            seen = perceptual.normalised(seen)
            return jnp.mean(perceptual.distance_between_normalised(seen, features, network.weights))
        if name == "ssim":
            similarity = metrics.ms_ssim if config.multiscale else metrics.ssim
            return 1.0 - jnp.mean(similarity(shown, wanted))
        if name == "mask":
            return jnp.mean(jnp.square(alpha - target[..., 3]))
        if name == "l1":
            return jnp.mean(jnp.abs(shown - wanted))
        difference = rgb - composite(target)
        return jnp.mean(jnp.square(block_mean(difference, min(config.colour_block, *difference.shape[1:3]))))

    terms = {name: term(name) for name in weights}
    return jnp.asarray(sum(weights[name] * value for name, value in terms.items())), terms
