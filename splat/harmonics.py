"""Real spherical harmonics up to degree 4, in the sign and order conventions of 3D Gaussian splatting.

The constants are those of Sloan, "Efficient Spherical Harmonic Evaluation" (JCGT 2013), with the Condon-Shortley
phase, as every splat file uses them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


# The function of degree 0, 1 / (2 sqrt(pi)): a colour is 0.5 + SH_C0 * its coefficient.
SH_C0 = 0.28209479177387814


def sh_basis(directions: Float[Array, "*batch 3"], degree: int) -> Float[Array, "*batch K"]:
    """Evaluates the basis functions.

    Args:
        directions: [..., 3] of length one.
        degree: Highest degree, 0 to 4.

    Returns:
        [..., K], K = (degree + 1)^2.

    Raises:
        ValueError: The degree is outside 0 to 4.
    """
    if not 0 <= degree <= 4:
        raise ValueError(f"sh degree is {degree}; expected 0 to 4")
    x, y, z = jnp.moveaxis(directions, -1, 0)
    basis = [jnp.full_like(x, SH_C0)]
    if degree == 0:
        return jnp.stack(basis, axis=-1)
    basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree == 1:
        return jnp.stack(basis, axis=-1)
    z2 = z * z
    cos2, sin2 = x * x - y * y, 2 * x * y
    basis += [
        0.5462742152960395 * sin2,
        -1.092548430592079 * z * y,
        0.9461746957575601 * z2 - 0.3153915652525201,
        -1.092548430592079 * z * x,
        0.5462742152960395 * cos2,
    ]
    if degree == 2:
        return jnp.stack(basis, axis=-1)
    ring = -2.285228997322329 * z2 + 0.4570457994644658
    cos3, sin3 = x * cos2 - y * sin2, x * sin2 + y * cos2
    basis += [
        -0.5900435899266435 * sin3,
        1.445305721320277 * z * sin2,
        ring * y,
        z * (1.865881662950577 * z2 - 1.119528997770346),
        ring * x,
        1.445305721320277 * z * cos2,
        -0.5900435899266435 * cos3,
    ]
    if degree == 3:
        return jnp.stack(basis, axis=-1)
    ring = z * (-4.683325804901025 * z2 + 2.007139630671868)
    inner = 3.31161143515146 * z2 - 0.47308734787878
    axis = z * (1.865881662950577 * z2 - 1.119528997770346)
    cos4, sin4 = x * cos3 - y * sin3, x * sin3 + y * cos3
    basis += [
        0.6258357354491763 * sin4,
        -1.770130769779931 * z * sin3,
        inner * sin2,
        ring * y,
        1.984313483298443 * z * axis - 1.006230589874905 * (0.9461746957575601 * z2 - 0.3153915652525201),
        ring * x,
        inner * cos2,
        -1.770130769779931 * z * cos3,
        0.6258357354491763 * cos4,
    ]
    return jnp.stack(basis, axis=-1)


def sh_colors(
    sh: Float[Array, "N K 3"], directions: Float[Array, "V N 3"] | None, degree: int
) -> Float[Array, "views N 3"]:
    """Evaluates colours max(0, 0.5 + sh . basis).

    Args:
        sh: [N, K, 3] coefficients, K = (degree + 1)^2.
        directions: [V, N, 3] unit vectors from the cameras to the gaussians; None at degree 0.
        degree: 0 to 4.

    Returns:
        [V, N, 3], at least 0; [1, N, 3] at degree 0.

    Raises:
        ValueError: There are no directions, although the degree is above 0.
    """
    if degree == 0:
        raw = SH_C0 * sh[None, :, 0]
    elif directions is None:
        raise ValueError(f"sh_colors got no directions; expected [V, N, 3] unit vectors at degree {degree}")
    else:
        raw = jnp.einsum("vnk,nkc->vnc", sh_basis(directions, degree), sh, precision="highest")
    return jnp.maximum(raw + 0.5, 0.0)
