"""Data: Toybox, the procedural captioned objects that the bundled model is trained on."""
