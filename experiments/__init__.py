"""Experiments: configurations and absl programs on top of the packages."""
