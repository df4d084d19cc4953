"""The stages that the project's recipes train: of a bundle, of SVD-like networks, of Emu Video's layout."""
