"""LPIPS on VGG16 with random weights: against lpips-j and the lpips package, its files, its gradients."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import lpips


@pytest.fixture(scope="module")
def weights():
    """Random parameters as numpy, scaled so that activations keep their size through the layers."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in lpips.expected_shapes().items():
        if name.startswith("lin"):
            arrays[name] = rng.uniform(0, 0.1, shape)
        elif name.endswith("bias"):
            arrays[name] = rng.normal(0, 0.05, shape)
        else:
            arrays[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 1, (2, 32, 48, 3)).astype(np.float32)
    return a, np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(lpips.lpips)


@pytest.fixture(scope="module")
def measured(compiled, weights, images):
    return np.asarray(compiled(weights, *images))


def torch_layout(weights):
    """Names and layouts of a torchvision backbone with the heads of the lpips package."""
    named = {}
    for name, array in weights.items():
        if name.startswith("lin"):
            named[f"{name.split('.')[0]}.model.1.weight"] = array[None, :, None, None]
        else:
            named[name] = np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array
    return named


def write_hdf5(weights, backbone, heads):
    h5py = pytest.importorskip("h5py")
    with h5py.File(backbone, "w") as file:
        for block, (convolutions, _) in enumerate(lpips.LEVELS):
            for layer, number in enumerate(convolutions):
                for kind in ("weight", "bias"):
                    file[f"conv{block + 1}_{layer + 1}/{kind}"] = weights[f"features.{number}.{kind}"]
        # The classifier of the published file, which must be left aside.
        file["fc6/weight"] = np.zeros((4, 4), np.float32)
    with h5py.File(heads, "w") as file:
        for level in range(5):
            file[f"lin{level}"] = weights[f"lin{level}.weight"][None, None, :, None]


def test_equal_images_have_distance_zero(compiled, weights, images):
    assert np.abs(np.asarray(compiled(weights, images[0], images[0]))).max() == 0.0


def test_every_file_layout_gives_the_same_parameters(weights, tmp_path):
    from safetensors.numpy import save_file

    named = torch_layout(weights)
    save_file(named, tmp_path / "all.safetensors")
    np.savez(tmp_path / "heads.npz", **{k: v for k, v in named.items() if k.startswith("lin")})
    np.savez(tmp_path / "vgg.npz", **{k: v for k, v in named.items() if not k.startswith("lin")})
    write_hdf5(weights, tmp_path / "vgg.h5", tmp_path / "lin.h5")
    for files in (["all.safetensors"], ["vgg.npz", "heads.npz"], ["vgg.h5", "lin.h5"]):
        loaded = lpips.load(*(tmp_path / name for name in files))
        assert loaded.keys() == weights.keys()
        for name in weights:
            np.testing.assert_array_equal(loaded[name], weights[name])


def test_bad_files_are_explained(tmp_path):
    np.savez(tmp_path / "heads.npz", **{"lin0.model.1.weight": np.zeros((1, 64, 1, 1), np.float32)})
    with pytest.raises(ValueError, match=r"no features\.0\.weight.*name the files of both"):
        lpips.load(tmp_path / "heads.npz")
    with pytest.raises(ValueError, match="pickled .pth files are not read"):
        lpips.load(tmp_path / "vgg16.pth")
    whole = (tmp_path / "heads.npz").read_bytes()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    damaged = {"junk": b"PK\x03\x04junk", "empty": b"", "cut": whole[:-40], "text": b"no archive", "array": None}
    for name, content in damaged.items():
        if content is not None:
            (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.npz is not a whole .npz archive") as error:
            lpips.load(tmp_path / f"{name}.npz")
        assert "\n" not in str(error.value)
    header = json.dumps({"lin0.weight": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}).encode()
    (tmp_path / "f8.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(ValueError, match=r"f8.safetensors has lin0.weight in dtype F8_E4M3; expected one of F64"):
        lpips.load(tmp_path / "f8.safetensors")


def test_blank_images_have_a_finite_gradient(weights):
    blank = dict(weights) | {name: np.zeros_like(a) for name, a in weights.items() if name.endswith("bias")}
    images = jnp.asarray([0.485, 0.456, 0.406])[None, None, None] * jnp.ones((1, 16, 16, 1))
    other = jnp.ones((1, 16, 16, 3))
    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(lpips.lpips(blank, x, other))))(images)
    assert float(value) > 0 and np.isfinite(gradient).all()


def test_bfloat16_is_near_and_the_fitting_form_leaves_alpha_aside(weights, images, measured):
    network = lpips.as_perceptual(weights, half=True)
    rgba = np.concatenate([images[0], np.zeros_like(images[0][..., :1])], axis=-1)
    features = jax.jit(lambda network, x: network.features(x))(network, rgba)
    assert [f.shape[-1] for f in features] == [64, 128, 256, 512, 512]
    assert features[0].dtype == jnp.bfloat16
    near = jax.jit(lpips.lpips, static_argnames="dtype")(weights, *images, dtype=jnp.bfloat16)
    np.testing.assert_allclose(near, measured, rtol=0.03)


@pytest.mark.parity
def test_equals_lpips_j(weights, images, measured, tmp_path, monkeypatch):
    module = pytest.importorskip("lpips_j.lpips")
    write_hdf5(weights, tmp_path / "vgg16_weights.h5", tmp_path / "lpips_lin.h5")
    monkeypatch.setattr(module, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename))
    network = module.LPIPS()
    a, b = (jnp.asarray(image * 2 - 1) for image in images)
    with jax.numpy_rank_promotion("allow"):
        expected = network.apply(network.init(jax.random.key(0), a, b), a, b)
    np.testing.assert_allclose(measured, np.asarray(expected).reshape(-1), rtol=2e-5)


@pytest.mark.parity
def test_equals_the_lpips_package(weights, images, measured, monkeypatch):
    torch = pytest.importorskip("torch")

    def vgg16(**_):
        layers, width_in = [], 3
        for level, (convolutions, width) in enumerate(lpips.LEVELS):
            layers += [torch.nn.MaxPool2d(2)] * (level > 0)
            for _ in convolutions:
                layers += [torch.nn.Conv2d(width_in, width, 3, padding=1), torch.nn.ReLU()]
                width_in = width
        return types.SimpleNamespace(features=torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2)))

    # The package imports torchvision for nothing but its model classes.
    stub = types.ModuleType("torchvision")
    stub.models = types.ModuleType("torchvision.models")
    stub.models.vgg16 = vgg16
    monkeypatch.setitem(sys.modules, "torchvision", stub)
    monkeypatch.setitem(sys.modules, "torchvision.models", stub.models)
    package = pytest.importorskip("lpips")

    network = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    slices = {}
    for name in network.state_dict():
        if name.startswith("net.slice"):
            slices[name] = "features." + name.split(".", 2)[2]
    named = torch_layout(weights)
    state = {name: torch.from_numpy(named[ours]) for name, ours in slices.items()}
    state |= {name: torch.from_numpy(array) for name, array in named.items() if name.startswith("lin")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith(("scaling_layer", "lins.")) for name in missing)
    a, b = (torch.from_numpy(image.transpose(0, 3, 1, 2)) * 2 - 1 for image in images)
    with torch.no_grad():
        expected = network(a, b).numpy().reshape(-1)
    np.testing.assert_allclose(measured, expected, rtol=2e-5)
