"""Name tables of foreign checkpoint families."""
