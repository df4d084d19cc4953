"""What a run leaves behind: the run folder, images, videos, contact sheets, camera files, progress.

Import the modules by name (`from im3d_jax.output import run_folder`): only `cameras` needs jax, and a wrong
argument is to be reported before jax is loaded.
"""
