"""One experiment a file, each with a `get_config()`."""
