"""`python -m im3d_jax` is the `im3d` program."""

from im3d_jax.cli.main import console


if __name__ == "__main__":
    console()
