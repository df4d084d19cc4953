"""Reading and writing of gaussian files."""
