"""From a request to views and assets: the request, the loop, who runs it, batches, functions for Python callers.

Import the modules by name; `im3d_jax` exports what callers need.
"""
