"""Benchmarks: of the rasterizer, the steps of a fit, foreign networks, fits of captures, and readers of files."""
