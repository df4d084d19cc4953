"""Recipes, one a file.

`get_config()` returns the `Recipe`. `get_smoke(folder)` returns it in miniature and writes into the folder whatever
that needs: `python -m experiments.train --config=NAME --smoke` tries the whole path in seconds.
"""
