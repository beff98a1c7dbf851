"""`rise convert`: the released weights and those of distributed training, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from diffusers import AutoencoderKLLTXVideo
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from rise_agents.cli.main import main
from rise_agents.policies.flow_policy import FlowPolicy
from rise_env.config import config_files
from rise_env.dynamics.config import load_dynamics_config
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialNetwork
from rise_env.tasks import load_task

TASK = {
    "extends": str(config_files("brick_sorting")["official"].with_suffix("")),
    "task": {"image_size": [32, 32]},
    "dynamics": {
        "official": {
            "layers": 2, "heads": 2, "head_dim": 8, "latent_channels": 4, "caption_dim": 12, "action_width": 8,
            "action_layers": 1, "action_heads": 2, "action_head_dim": 4, "action_mlp": 10,
        },
        "video_autoencoder": {"latent_channels": 4},
    },
}  # fmt: skip
RANGES = {"min_val": [-1.0] * 14, "max_val": [1.0] * 13 + [100.0]}


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What one downloads, in the working directory; gives the weights of the transformer."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Path("task.yaml").write_text(yaml.safe_dump(TASK))
    Path("infer_online.yaml").write_text(yaml.safe_dump(RANGES))
    weights = OfficialNetwork(load_dynamics_config("task.yaml").official).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, "weights.pt")
    T5EncoderModel(T5Config(vocab_size=8, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained("t5")
    sizes = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": (1, 1, 1, 1, 1)}
    decoder = {f"decoder_{name}": size for name, size in sizes.items()}
    AutoencoderKLLTXVideo(latent_channels=4, **sizes, **decoder).save_pretrained("LTX-Video/vae")
    return weights


def test_from_the_released_weights_to_a_model(
    released: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "caption", "t5", "--out", "caption.safetensors"]) == 0
    assert "caption.safetensors: (26, 12)" in capsys.readouterr().out
    base = [
        "convert",
        "dynamics-checkpoint",
        "weights.pt",
        "--task",
        "task.yaml",
        "--vae",
        "LTX-Video",
        "--out",
        "model",
    ]
    caption, ranges = ["--caption", "caption.safetensors"], ["--ranges", "infer_online.yaml"]
    for missing, options in {"--ranges FILE": caption, "rise convert caption": ranges}.items():
        assert main([*base, *options]) != 0
        assert missing in capsys.readouterr().err
        assert not Path("model").exists()
    assert main([*base, *caption, *ranges]) == 0
    said = capsys.readouterr()
    assert "ranges min_max (infer_online.yaml)" in said.out
    assert "right_gripper from 0 to 0.07 m becomes -0.980 to -0.979" in said.err  # another unit: it says so
    loaded = LatentDynamics.from_pretrained("model")
    network = loaded.transformer.network.state_dict()
    assert all(torch.equal(network[name], tensor) for name, tensor in released.items())
    assert main([*base, *caption, *ranges]) != 0
    assert "not overwritten" in capsys.readouterr().err


def test_distributed_weights_to_a_file_and_into_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"))
    policy.save_pretrained("policy")
    torch.nn.init.constant_(next(policy.parameters()), 0.125)
    weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    dcp.save({"model": weights, "step": 3}, checkpoint_id="dcp", no_dist=True)
    assert main(["convert", "dcp", "dcp", "--into", "policy", "--out", "tuned"]) == 0
    tuned = FlowPolicy.from_pretrained("tuned").state_dict()
    assert all(torch.allclose(tuned[name], tensor, atol=1e-2) for name, tensor in weights.items())  # fp16 on disk
    assert main(["convert", "dcp", "dcp", "--prefix", "model", "--out", "weights.safetensors"]) == 0
    assert load_file("weights.safetensors").keys() == weights.keys()
    save_file({"x": torch.ones(1)}, "other.safetensors")
    capsys.readouterr()
    assert main(["convert", "dcp", "other.safetensors", "--into", "policy", "--out", "new"]) != 0
    assert "does not fit policy: missing" in capsys.readouterr().err
    assert not Path("new").exists()
