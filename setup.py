"""Packaging: two packages, one console script, and extras for what not everybody needs."""

import pathlib
import re

from setuptools import find_packages, setup


ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "im3d_jax" / "version.py").read_text()).group(1)

PACKAGES = ["im3d_jax", "splat"]

REQUIREMENTS = [
    "jax>=0.10,<0.13",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12,<0.13",
    "diffrax>=0.7.2",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources",  # tensorflow-datasets imports it without declaring it
    "grain>=0.2.18",
    "lpips-j>=0.0.6",
    "numpy>=2",
    "scipy>=1.14",
    "absl-py>=2.1",
    "safetensors>=0.5",
    "zstandard>=0.22",
    "tokenizers>=0.20",
    "jaxtyping>=0.3",
    "pillow>=11",
    "rich>=13",
    "imageio>=2.36",
    "av>=14",
]

EXTRAS = {
    "gpu": ["jax[cuda12]>=0.10,<0.13"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    "data": ["trimesh>=4.5", "moderngl>=5.12", "DracoPy>=2.0"],
    "mesh": [
        "trimesh>=4.5",
        "scikit-image>=0.25",
        "fast-simplification>=0.1.9",
        "xatlas>=0.0.9",
    ],
    "beam": ["apache-beam>=2.60"],
    "tensorboard": ["tensorboardX>=2.6"],
    "view": ["viser>=1.0"],
    "colmap": ["pycolmap>=3.11"],
    "browser": ["playwright>=1.40"],  # the client alone: tests use the Chromium of the system
    "hub": ["huggingface_hub>=0.30"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "beartype>=0.20",
        "ruff>=0.17,<0.18",
        "pyright[nodejs]>=1.1.390",
    ],
    # `lpips` is compared with too, but it asks for torchvision, which it needs only for its pretrained
    # weights: install it with `pip install --no-deps lpips`. Besides scipy it really imports only tqdm.
    "parity": [
        "torch==2.13.0",
        "accelerate>=1.0",
        "diffusers>=0.42",
        "transformers>=5.0",
        "gsplat==1.5.3",
        "gsply[sogs]>=0.4.6",
        "pytorch-msssim>=1.0",
        "h5py>=3.12",
        "pycolmap>=3.11",
        "tqdm>=4.66",
    ],
}

setup(
    name="im3d-jax",
    version=VERSION,
    description="Text or image to a 3D Gaussian-splat asset by iterative multiview diffusion, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={
        "im3d_jax.weights": ["tiny/*.safetensors", "tiny/*.json"],
        "im3d_jax.data.props": ["*.tsv"],
        "im3d_jax.viewer": ["page.html", "page.css", "viewer.min.js", "LICENSE.three.txt"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["im3d = im3d_jax.cli.main:console"]},
)
