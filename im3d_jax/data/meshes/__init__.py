"""Meshes as training data: reading them, and drawing them from the turntable's cameras."""
