"""Dense float64 renderer: every gaussian at every pixel, from the rules, sharing no code with `splat`.

Gradients come from autodiff of this dense form. Use inside `jax.enable_x64(True)`.
"""

import jax
import jax.numpy as jnp
import numpy as np


def torus(n, seed=0):
    """n gaussians on a bumpy torus in the unit sphere: means, quats, scales, opacities, colours (numpy)."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 2 * np.pi, n)
    radius, tube = 0.5, 0.22 + 0.04 * np.sin(5 * u)
    ring = radius + tube * np.cos(v)
    means = np.stack([ring * np.cos(u), ring * np.sin(u), tube * np.sin(v)], -1)
    scales = np.sqrt(4 * np.pi**2 * radius * 0.22 / n) * np.exp(rng.normal(0, 0.35, (n, 3))) * 0.8
    quats = rng.normal(size=(n, 4))
    opacities = 1 / (1 + np.exp(-rng.normal(1.5, 1.2, n)))
    colors = np.clip(0.5 + 0.5 * np.sin(7 * means + np.array([0, 2, 4])), 0, 1)
    return means, quats, scales, opacities, colors


def rotation_of(q):
    """One quaternion (wxyz) as a matrix, by the product q v conj(q) on the basis vectors."""
    q = q / jnp.sqrt(jnp.sum(q * q))
    w, r = q[0], q[1:]
    columns = [e + 2 * jnp.cross(r, jnp.cross(r, e) + w * e) for e in jnp.eye(3, dtype=q.dtype)]
    return jnp.stack(columns, axis=1)


def harmonics(d, degree):
    """Degrees 0 to 3 in the polynomial form of the original 3D Gaussian splatting code."""
    x, y, z = d
    xx, yy, zz = x * x, y * y, z * z
    out = [0.28209479177387814 + 0 * x]
    if degree >= 1:
        out += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        out += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        out += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return jnp.stack(out)


def _one_splat(mean, quat, log_scale, logit, sh, w2c, k, width, height):
    rotation, translation = w2c[:3, :3], w2c[:3, 3]
    x, y, z = rotation @ mean + translation
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    seen = z > 0.01
    z = jnp.where(seen, z, 1.0)
    tx = z * jnp.clip(x / z, -(cx / fx + 0.15 * width / fx), (width - cx) / fx + 0.15 * width / fx)
    ty = z * jnp.clip(y / z, -(cy / fy + 0.15 * height / fy), (height - cy) / fy + 0.15 * height / fy)
    zero = jnp.zeros_like(z)
    jacobian = jnp.stack(
        [
            jnp.stack([fx / z, zero, -fx * tx / z**2]),
            jnp.stack([zero, fy / z, -fy * ty / z**2]),
        ]
    )
    turned = rotation_of(quat) * jnp.exp(log_scale)[None, :]
    world = turned @ turned.T
    covariance = jacobian @ rotation @ world @ rotation.T @ jacobian.T + 0.3 * jnp.eye(2, dtype=z.dtype)
    conic = jnp.linalg.inv(covariance)
    direction = mean + jnp.linalg.inv(rotation) @ translation
    direction = direction / jnp.linalg.norm(direction)
    degree = int(round(sh.shape[0] ** 0.5)) - 1
    color = jnp.maximum(harmonics(direction, degree) @ sh + 0.5, 0.0)
    opacity = jnp.where(seen, 1 / (1 + jnp.exp(-logit)), 0.0)
    return jnp.stack([fx * x / z + cx, fy * y / z + cy]), conic, z, color, opacity


def render_view(params, w2c, k, background, width, height, offset=None):
    """One view.

    Args:
      params: means, quats, log_scales, logits, sh.

    Returns:
      rgb, alpha, depth images and the margin [H, W]: the smallest relative distance of any decision (alpha
      cut-off, clamp, stop) from its threshold among the splats that matter.
    """
    splat = jax.vmap(_one_splat, in_axes=(0, 0, 0, 0, 0, None, None, None, None))
    mean2d, conic, z, color, opacity = splat(*params, w2c, k, width, height)
    if offset is not None:
        mean2d = mean2d + offset
    order = jnp.argsort(jnp.where(opacity > 0, z, jnp.inf), stable=True)
    mean2d, conic, z, color, opacity = (a[order] for a in (mean2d, conic, z, color, opacity))
    row, column = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    d = jnp.stack([column.ravel(), row.ravel()], -1)[:, None] - mean2d[None]
    sigma = 0.5 * jnp.einsum("pni,nij,pnj->pn", d, conic, d)
    raw = opacity[None] * jnp.exp(-sigma)
    alpha = jnp.where(raw >= 1 / 255, jnp.minimum(raw, 0.999), 0.0)
    after = jnp.cumprod(1 - alpha, axis=1)
    before = jnp.concatenate([jnp.ones_like(after[:, :1]), after[:, :-1]], axis=1)
    kept = after > 1e-4
    weight = jnp.where(kept, alpha * before, 0.0)
    rgb_light = weight @ color
    depth_light = weight @ z
    left = jnp.prod(jnp.where(kept, 1 - alpha, 1.0), axis=1)
    covered = 1 - left
    rgb = rgb_light + left[:, None] * background[None]
    depth = jnp.where(covered > 1e-10, depth_light / jnp.where(covered > 1e-10, covered, 1.0), 0.0)
    matters = jnp.concatenate([jnp.ones_like(kept[:, :1]), kept[:, :-1]], axis=1)
    gaps = jnp.minimum(jnp.abs(raw * 255 - 1), jnp.abs(raw / 0.999 - 1))
    gaps = jnp.minimum(gaps, jnp.where(alpha > 0, jnp.abs(after / 1e-4 - 1), jnp.inf))
    margin = jnp.min(jnp.where(matters, gaps, jnp.inf), axis=1)
    shape = (height, width)
    return rgb.reshape(*shape, 3), covered.reshape(shape), depth.reshape(shape), margin.reshape(shape)
