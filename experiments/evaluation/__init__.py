"""What `experiments.evaluate` measures: objects beside their true turntables, and finished runs."""
