"""LPIPS and FVD on stand-in networks, and the Frechet distance against closed forms.

The stand-ins have random weights: what is tested is the whole way from a file to a number, not what people see.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rise_env.errors import CheckpointError, ConfigError
from rise_env.metrics.perceptual import Lpips, VideoFeatures, frechet_distance


class StandIn(nn.Module):
    """The interface of the I3D of Kinetics, and like it too small a clip for its last pooling is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, 6, 3, stride=2)
        self.last = nn.AvgPool3d((4, 7, 7))

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 16, 16])
        x = self.last(torch.relu(self.first(x))).flatten(1)
        return x if return_features else x[:, :1]


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, with random weights."""
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).features.state_dict(prefix="features."), path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fvd") / "detector.pt"
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):  # the published file is of that kind
        torch.jit.script(StandIn()).save(str(path))
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures: uint8 (2, 3, 48, 64, 3)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, 3, 6, 8, 3), np.uint8).repeat(8, axis=2).repeat(8, axis=3)


def damaged(images: np.ndarray, size: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-size, size + 1, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------- LPIPS


def test_lpips_is_nothing_for_equal_images_and_grows_with_damage(alexnet: Path, images: np.ndarray) -> None:
    lpips = Lpips.load(alexnet)
    assert lpips.net == "alex"
    same, little, much = (lpips.distance(damaged(images, size), images, batch=4) for size in (0, 10, 80))
    assert same.shape == (2, 3)
    assert (same == 0).all()
    assert (little > 0).all()
    assert (much > 2 * little).all()


def test_lpips_is_that_of_its_authors(alexnet: Path, images: np.ndarray, tmp_path: Path) -> None:
    """The weights of the file reach the right layers, and pixels the right range, whatever form the file has."""
    import lpips as package
    from safetensors.torch import save_file

    with pytest.warns(UserWarning, match="deprecated"):
        reference = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    stored = torch.load(alexnet, weights_only=True)
    layers = {name: stored["features." + name.split(".", 1)[1]] for name in reference.net.state_dict()}
    reference.net.load_state_dict(layers)
    other = damaged(images, 40)
    a, b = (torch.from_numpy(x[0]).permute(0, 3, 1, 2).float() / 255 for x in (other, images))
    with torch.no_grad():
        expected = reference(a, b, normalize=True).flatten().numpy()

    torch.save(reference.state_dict(), tmp_path / "whole.pt")
    once = {name: tensor.clone() for name, tensor in reference.state_dict().items() if not name.startswith("lins.")}
    save_file(once, tmp_path / "whole.safetensors")
    for path in (alexnet, tmp_path / "whole.pt", tmp_path / "whole.safetensors"):
        assert Lpips.load(path).distance(other[0], images[0]) == pytest.approx(expected, rel=1e-4), path


def test_vgg_is_recognised_by_its_layers(tmp_path: Path) -> None:
    """A VGG-19 begins like a VGG-16; what it lacks is named."""
    import torchvision

    with torch.device("meta"):
        features = {n: torchvision.models.get_model(n, weights=None).features.state_dict() for n in ("vgg16", "vgg19")}
    for name, state in features.items():
        torch.save({f"features.{key}": torch.zeros(tensor.shape) for key, tensor in state.items()}, tmp_path / name)
    assert Lpips.load(tmp_path / "vgg16").net == "vgg"
    with pytest.raises(CheckpointError, match=r"missing net\.slice4\.17\.weight.*vgg16-397923af\.pth"):
        Lpips.load(tmp_path / "vgg19")


def test_wrong_files_for_lpips_are_named_and_mended(alexnet: Path, detector: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(alexnet.read_bytes()[:5000])
    (tmp_path / "page.html").write_text("<html>404</html>")
    (tmp_path / "cut.safetensors").write_bytes(b"half")
    stored = torch.load(alexnet, weights_only=True)
    torch.save({**stored, "features.0.bias": stored["features.0.bias"] * torch.nan}, tmp_path / "nan.pth")
    for name, words in {
        "none.pth": "does not exist",
        "other.pth": r"holds no weights for LPIPS \(it begins with weight\)",
        "cut.pth": "no file of tensors",
        "page.html": "no file of tensors",
        "cut.safetensors": "no file of tensors",
        "nan.pth": r"net\.slice1\.0\.bias is not finite",
    }.items():
        with pytest.raises(CheckpointError, match=rf"(?s){name} .*{words}.*alexnet-owt-7be5be79\.pth"):
            Lpips.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="alexnet-owt"):
        Lpips.load(detector)


def test_a_file_of_weights_cannot_run_code(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        Lpips.load(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_the_missing_package_is_named(alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ConfigError, match=r"pip install 'rise-robotics\[metrics\]'"):
        Lpips.load(alexnet)


def test_images_that_lpips_cannot_compare(alexnet: Path, images: np.ndarray) -> None:
    lpips = Lpips.load(alexnet)
    with pytest.raises(ValueError, match=r"at least 31 x 31, got 30 x 64"):
        lpips.distance(images[..., :30, :, :], images[..., :30, :, :])
    assert np.isfinite(lpips.distance(images[..., :31, :31, :], images[..., 1:32, :31, :])).all()
    with pytest.raises(ValueError, match="expected two equal"):
        lpips.distance(images, images[:1])
    with pytest.raises(TypeError, match="float"):
        lpips.distance(images.astype(np.float32), images)


# ---------------------------------------------------------------------- FVD


def test_fvd_is_nothing_for_equal_clips_and_grows_with_damage(detector: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (40, 9, 8, 8, 3), np.uint8)
    video = VideoFeatures.load(detector)
    true, little, much = (video.features(damaged(clips, size), batch=16) for size in (0, 30, 200))
    assert true.shape == (40, 6)
    assert true.dtype == np.float64
    assert frechet_distance(true, true) == pytest.approx(0.0, abs=1e-9)
    assert 0 < frechet_distance(little, true) < frechet_distance(much, true)


def test_pixels_reach_the_network_as_it_wants_them(detector: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, 9, 8, 8, 3), np.uint8)
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        network = torch.jit.load(str(detector))
    with torch.no_grad():
        videos = torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 127.5 - 1
        expected = network(videos, rescale=False, resize=True, return_features=True)
    assert VideoFeatures.load(detector).features(clips, batch=2) == pytest.approx(expected.numpy(), abs=1e-6)


def test_wrong_files_and_clips_for_fvd_are_named_and_mended(alexnet: Path, detector: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>404</html>")
    for path in (tmp_path / "none.pt", tmp_path / "page.html", alexnet):
        with pytest.raises(CheckpointError, match=rf"{path.name} .*i3d_torchscript\.pt"):
            VideoFeatures.load(path)
    video = VideoFeatures.load(detector)
    with pytest.raises(CheckpointError, match=r"clips of 6 frames of 8 x 8 .*needs 9 frames.*chunk // stride"):
        video.features(np.zeros((2, 6, 8, 8, 3), np.uint8))
    with pytest.raises(TypeError, match="float64"):
        video.features(np.zeros((2, 9, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"expected \(n, T, H, W, 3\)"):
        video.features(np.zeros((9, 8, 8, 3), np.uint8))
    blind = VideoFeatures(lambda *_, **__: torch.full((2, 4), torch.nan), "blind.pt")
    with pytest.raises(CheckpointError, match=r"blind\.pt gives features of shape \(2, 4\) .*expected finite"):
        blind.features(np.zeros((2, 9, 8, 8, 3), np.uint8))


# ---------------------------------------------------------------------- Frechet distance


def sample(mean: np.ndarray, covariance: np.ndarray, count: int = 64, seed: int = 0) -> np.ndarray:
    """Rows whose mean and covariance are exactly those given."""
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_axis_aligned_gaussians() -> None:
    """Where the covariances commute it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    means = np.array([0.0, 1.0, -2.0]), np.array([3.0, 1.0, 0.0])
    scales = np.array([1.0, 2.0, 0.5]), np.array([2.0, 2.0, 1e-4])
    first, second = (sample(m, np.diag(s**2), seed=i) for i, (m, s) in enumerate(zip(means, scales, strict=True)))
    expected = np.square(means[0] - means[1]).sum() + np.square(scales[0] - scales[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_tilted_gaussians() -> None:
    """In two dimensions tr (S1 S2)^(1/2) = sqrt(tr S1 S2 + 2 sqrt(det S1 S2))."""
    one, two = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    product = one @ two
    shared = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 5.0 + np.trace(one) + np.trace(two) - 2 * shared
    first, second = sample(np.zeros(2), one, 30), sample(np.array([1.0, 2.0]), two, 50, seed=1)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_fewer_samples_than_features() -> None:
    """Singular covariances: rank one along the same direction, so that only the lengths differ."""
    direction = np.random.default_rng(0).normal(size=400)
    direction /= np.linalg.norm(direction)
    weights = np.array([-1.0, 1.0, 0.0])
    first, second = weights[:, None] * direction, 3 * weights[:, None] * direction
    assert frechet_distance(first, second) == pytest.approx(4.0, rel=1e-9)
    assert frechet_distance(first + 1e3, first + 1e3) == pytest.approx(0.0, abs=1e-9)


def test_samples_without_a_distance_are_refused() -> None:
    good = np.zeros((3, 2))
    for wrong in (np.zeros((1, 2)), np.zeros((3, 4)), np.zeros(3), np.array([[0.0, np.nan]] * 3)):
        with pytest.raises(ValueError, match="samples"):
            frechet_distance(wrong, good)
