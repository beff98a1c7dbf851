"""LPIPS and FVD: distances in the features of networks whose weights the user names; nothing is downloaded.

**LPIPS** (Zhang et al. 2018) of AlexNet or VGG-16, computed by its authors' package `lpips` (extra `metrics`). The
file is either torchvision's ImageNet state dict (`alexnet-owt-7be5be79.pth`, `vgg16-397923af.pth` of
https://download.pytorch.org/models), to which the package adds its calibrated linear layers, or the state dict of a
whole `lpips.LPIPS`. It is a safetensors file or is read with `torch.load(weights_only=True)`: it can run no code.

**FVD** (Unterthiner et al. 2018): the Frechet distance between Gaussians fitted to the features that the I3D network
of Kinetics-400 gives real and imagined clips. The file is `i3d_torchscript.pt`, with which most published FVD values
are computed. TorchScript *is* a program: loading the file runs what is in it, so name only one that you trust.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from rise_env.errors import CheckpointError, ConfigError
from rise_env.metrics.images import check_images
from rise_env.pretrained import listed, misfits

__all__ = ["FVD_NOT_RUN", "LPIPS_NOT_RUN", "Lpips", "VideoFeatures", "frechet_distance"]

#: Entry of a report where a network was not given.
LPIPS_NOT_RUN = "no weights given, pass --lpips FILE"
FVD_NOT_RUN = "no weights given, pass --fvd FILE"

_LPIPS_FILES = (
    "give torchvision's state dict of AlexNet or VGG-16 "
    "(https://download.pytorch.org/models/alexnet-owt-7be5be79.pth or vgg16-397923af.pth), "
    "or that of a whole lpips.LPIPS"
)
_I3D_FILE = "give the TorchScript file i3d_torchscript.pt (I3D of Kinetics-400, as StyleGAN-V publishes it)"
#: Shape of the first convolution, which identifies the network.
_FIRST_CONVOLUTION: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
#: Fewest pixels along a side that are left with one position in the last layer.
_LEAST_PIXELS = {"alex": 31, "vgg": 16}


class Lpips:
    """Learned perceptual image patch similarity.

    Args:
        network: An `lpips.LPIPS`.
        net: "alex" or "vgg".
        device: Where it computes.
    """

    def __init__(self, network: Any, net: str, device: str | torch.device = "cpu") -> None:
        self.net, self.device = net, torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read the weights; see the top of this module for the files that will do.

        Args:
            path: Local file.
            device: Where to compute.

        Raises:
            ConfigError: If the package `lpips` is missing.
            CheckpointError: If the file is missing, damaged or of another network.
        """
        try:
            import lpips
        except ImportError as error:
            raise ConfigError(
                f"LPIPS needs the package lpips ({error}). Install it with: pip install 'rise-robotics[metrics]'"
            ) from error
        tensors = _read_tensors(Path(path))
        whole = any(name.startswith("net.slice") for name in tensors)
        first = tensors.get("net.slice1.0.weight" if whole else "features.0.weight")
        net = None if first is None else _FIRST_CONVOLUTION.get(tuple(first.shape))
        if net is None:
            found = ", ".join(list(tensors)[:3]) or "nothing"
            raise CheckpointError(f"{path} holds no weights for LPIPS (it begins with {found}): {_LPIPS_FILES}.")
        with warnings.catch_warnings():
            # The package asks torchvision for an empty network in words that torchvision calls deprecated.
            warnings.simplefilter("ignore", UserWarning)
            network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_strictly(network, tensors if whole else _from_torchvision(network, tensors), path)
        return cls(network, net, device)

    @torch.no_grad()
    def distance(self, imagined: np.ndarray, true: np.ndarray, batch: int = 64) -> np.ndarray:
        """Distance of each pair of images; 0 for equal ones.

        Args:
            imagined: uint8 (..., H, W, 3).
            true: uint8 of the same shape.
            batch: Pairs compared at once.

        Returns:
            float64 (...,).

        Raises:
            ValueError: If the shapes differ, or the images are too small for the network.
            TypeError: If they are not uint8.
        """
        check_images(imagined, true)
        lead, (height, width) = imagined.shape[:-3], imagined.shape[-3:-1]
        least = _LEAST_PIXELS[self.net]
        if min(height, width) < least:
            raise ValueError(f"LPIPS ({self.net}) needs images of at least {least} x {least}, got {height} x {width}")
        pairs = [images.reshape(-1, height, width, 3) for images in (imagined, true)]
        parts = []
        for start in range(0, len(pairs[0]), batch):
            slices = (np.ascontiguousarray(images[start : start + batch]) for images in pairs)
            both = (torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2) for part in slices)
            a, b = (images.float() / 127.5 - 1 for images in both)
            parts.append(self._network(a, b).flatten().double().cpu())
        return torch.cat(parts).numpy().reshape(lead) if parts else np.zeros(lead)


class VideoFeatures:
    """Features of clips, by a TorchScript network with the interface of `i3d_torchscript.pt`.

    Args:
        network: Called with pixels float (n, 3, T, H, W) from 0 to 255 and the flags `rescale`, `resize` and
            `return_features`; returns (n, F).
        name: Where it comes from, for messages.
        device: Where it computes.
    """

    def __init__(self, network: Callable[..., torch.Tensor], name: str, device: str | torch.device = "cpu") -> None:
        self.name, self.device = name, torch.device(device)
        self._network = network

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read the network. TorchScript runs code: name only a file that you trust.

        Args:
            path: Local TorchScript file.
            device: Where to compute.

        Raises:
            CheckpointError: If the file is missing or is no TorchScript.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: {_I3D_FILE}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, the file is not ours
            try:
                network = torch.jit.load(str(path), map_location=device).eval()
            except (RuntimeError, ValueError, OSError) as error:
                raise CheckpointError(f"{path} is no TorchScript network ({_line(error, 0)}): {_I3D_FILE}.") from error
        return cls(network, str(path), device)

    @torch.no_grad()
    def features(self, clips: np.ndarray, batch: int = 16) -> np.ndarray:
        """Features of clips.

        Args:
            clips: uint8 (n, T, H, W, 3). The I3D of Kinetics needs T of at least 9; it resizes images itself.
            batch: Clips at once.

        Returns:
            float64 (n, F).

        Raises:
            CheckpointError: If the network cannot take such clips, or gives no finite features.
            ValueError, TypeError: If shape or type of the clips is another.
        """
        if clips.ndim != 5 or clips.shape[-1] != 3:
            raise ValueError(f"clips have shape {clips.shape}, expected (n, T, H, W, 3)")
        if clips.dtype != np.uint8:
            raise TypeError(f"clips are {clips.dtype}, expected uint8")
        parts = []
        for start in range(0, len(clips), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(clips[start : start + batch])).to(self.device)
            pixels = pixels.permute(0, 4, 1, 2, 3).float()
            try:
                found = self._network(pixels, rescale=True, resize=True, return_features=True)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{self.name} cannot read clips of {clips.shape[1]} frames of {clips.shape[2]} x {clips.shape[3]} "
                    f"({_line(error, -1)}). If it is another network, {_I3D_FILE}. That one needs 9 frames: a start "
                    "frame and 8 imagined ones, so a preset whose chunk // stride is at least 8."
                ) from error
            if found.dim() != 2 or len(found) != len(pixels) or not bool(torch.isfinite(found).all()):
                raise CheckpointError(
                    f"{self.name} gives features of shape {tuple(found.shape)} for {len(pixels)} clips, "
                    f"expected finite ({len(pixels)}, F): {_I3D_FILE}."
                )
            parts.append(found.double().cpu().numpy())
        return np.concatenate(parts)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance between the Gaussians of two samples: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    No matrix square root is taken. With S = X^T X for centred, scaled samples X, tr (S1 S2)^(1/2) is the sum of the
    singular values of X1 X2^T, which stays exact where there are fewer samples than features and the covariances are
    singular, and cannot turn complex.

    Args:
        first: float (n, F), at least two rows.
        second: float (m, F), at least two rows.

    Returns:
        The distance (squared units of the features), at least 0.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.
    """
    pair = [np.asarray(sample, np.float64) for sample in (first, second)]
    if any(sample.ndim != 2 or len(sample) < 2 for sample in pair) or pair[0].shape[1] != pair[1].shape[1]:
        shapes = " and ".join(str(sample.shape) for sample in pair)
        raise ValueError(f"samples have shapes {shapes}, expected (n, F) and (m, F) with at least two rows")
    if not all(np.isfinite(sample).all() for sample in pair):
        raise ValueError("samples are not finite")
    means = [sample.mean(axis=0) for sample in pair]
    centred = [(sample - mean) / np.sqrt(len(sample) - 1) for sample, mean in zip(pair, means, strict=True)]
    # S = R^T R as well, with R of at most F rows: what follows does not grow with the number of samples.
    roots = [np.asarray(np.linalg.qr(sample, mode="r")) for sample in centred]
    shared = float(np.linalg.norm(roots[0] @ roots[1].T, ord="nuc"))
    spread = sum(float(np.square(root).sum()) for root in roots)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + spread - 2 * shared))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: {_LPIPS_FILES}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old storages, as in torchvision's files: they are read
            safe = path.suffix == ".safetensors"
            content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no file of tensors ({_line(error, 0)}): {_LPIPS_FILES}.") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, no state dict: {_LPIPS_FILES}.")
    return dict(content)


def _from_torchvision(network: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a whole LPIPS: layers from torchvision's file, the rest as the package made it."""
    named = dict(network.state_dict())
    for name in list(named):
        if match := re.fullmatch(r"net\.slice\d+\.(\d+\.(?:weight|bias))", name):
            del named[name]
            if (feature := f"features.{match[1]}") in tensors:
                named[name] = tensors[feature]
    return named


def _load_strictly(network: Any, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    expected = network.state_dict()
    # The linear layers have two names each; safetensors keeps one of them.
    names = {name: re.sub(r"^lins\.(\d)\.", r"lin\1.", name) for name in expected}
    given = {**{name: tensors[other] for name, other in names.items() if other in tensors}, **tensors}
    if problems := misfits(given, expected):
        raise CheckpointError(f"{path} does not fit LPIPS: {listed(problems)}. Instead, {_LPIPS_FILES}.")
    network.load_state_dict(given)


def _line(error: BaseException, which: int) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[which].strip()
