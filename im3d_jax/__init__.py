"""IM-3D in JAX: text or a picture → 16 turntable views → a 3D Gaussian-splat asset (arXiv 2402.08682)."""

__version__ = "0.1.0"
