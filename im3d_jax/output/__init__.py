"""Results of a run: run folders, renders of the asset, videos and contact sheets.

Import the modules by name (`from im3d_jax.output import run_folder`): only `renders` needs JAX, and wrong arguments are
reported before JAX is loaded.
"""
