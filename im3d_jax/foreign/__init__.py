"""Foreign models made ready to draw: SVD and SV3D orbits, Stable Diffusion pictures.

Import the modules by name (`from im3d_jax.foreign import video`): `layouts` needs no jax, and a wrong argument is to be
reported before jax is loaded.
"""
