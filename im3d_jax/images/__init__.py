"""Pictures: alpha, sizes, PNG files, cutting objects out, and distances between pictures.

Pictures are float32 `[H, W, 4]` in [0, 1] with straight alpha. `alpha` and `resize` take numpy and JAX arrays alike;
`files`, `cutout` and `mattes` load no JAX.
"""
