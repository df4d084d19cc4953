"""The `im3d` program: one module a command, each with `register` (its flags) and `run`."""
