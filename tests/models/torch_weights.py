"""Random weights for PyTorch models and their way into ours; loaded by path by the parity tests beside it."""

import jax
import numpy as np
import torch

from im3d_jax.weights.names.table import check_complete, make_table
from im3d_jax.weights.trees import flatten, unflatten


def randomise(model, faint: float = 1.0):
    """Random parameters that keep activations near 1, or near `faint`, where another eps in a norm would show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise * (1 if "norm" in name or "mix" in name else faint))
            else:
                parameter.copy_(faint * noise / np.sqrt(parameter[0].numel()))
    return model.eval()


def parameters_from(model, template, **table_arguments):
    """The model's tensors as our tree, each used exactly once."""
    table = make_table({name: leaf.shape for name, leaf in flatten(template).items()}, **table_arguments)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    check_complete(table, {name: tensor.shape for name, tensor in tensors.items()}, "the PyTorch model")
    flat = {ours: entry.layout.from_file(tensors[entry.name]) for ours, entry in table.items()}
    return jax.tree.map(np.ascontiguousarray, unflatten(flat, template))


def relative(ours, theirs) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
