"""Training, evaluation and benchmarks: absl programs on top of the packages. Not installed with them."""
