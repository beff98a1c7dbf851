"""The commands of docs/released_weights.md that convert, at a tiny size."""

from __future__ import annotations

import shlex
from collections.abc import Callable
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
Blocks = Callable[[str], list[tuple[str, str]]]
RANGES = {"min_val": [-1.0] * 13 + [0.0], "max_val": [1.0] * 13 + [100.0]}


def converting(blocks: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The `rise convert` commands of the page by their output, for the tiny task in place of the preset."""
    lines = " ".join(text for language, text in blocks if language == "bash").replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.replace("--preset official", "--task task.yaml")) for line in lines]
    found = [words[1:] for words in commands if words[1:2] == ["convert"]]
    return {words[words.index("--out") + 1]: words for words in found}


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What one downloads, in the working directory; gives the weights of the transformer."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Path("task.yaml").write_text(yaml.safe_dump(TASK))
    Path("infer_online.yaml").write_text(yaml.safe_dump(RANGES))
    weights = OfficialNetwork(load_dynamics_config("task.yaml").official).state_dict()
    save_file(weights, "diffusion_pytorch_model.safetensors")
    t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    t5.save_pretrained("LTX-Video/text_encoder")
    sizes = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": (1, 1, 1, 1, 1)}
    decoder = {f"decoder_{name}": size for name, size in sizes.items()}
    AutoencoderKLLTXVideo(latent_channels=4, **sizes, **decoder).save_pretrained("LTX-Video/vae")
    return weights


def test_from_the_released_weights_to_a_model(
    released: dict[str, torch.Tensor], code_blocks: Blocks, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = converting(code_blocks("docs/released_weights.md"))
    assert main(commands["caption.safetensors"]) == 0
    assert "caption.safetensors: (26, 12)" in capsys.readouterr().out
    command = commands["models/rise"]
    for option, message in {"--ranges": "--ranges FILE", "--caption": "rise convert caption"}.items():
        at = command.index(option)
        assert main([*command[:at], *command[at + 2 :]]) != 0
        assert message in capsys.readouterr().err
        assert not Path("models").exists()
    assert main([*command[: command.index("--ranges")], *command[command.index("--vae") :], "--range-set", "A"]) != 0
    assert "--range-set chooses among" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr()
    assert "ranges min_max (infer_online.yaml)" in said.out
    assert "right_gripper from 0 to 0.07 m becomes -1.000 to -0.999" in said.err  # another unit: it says so
    loaded = LatentDynamics.from_pretrained("models/rise")
    network = loaded.transformer.network.state_dict()
    assert all(torch.equal(network[name], tensor) for name, tensor in released.items())
    assert main(command) != 0
    assert "not overwritten" in capsys.readouterr().err


def test_distributed_weights_to_a_file_and_into_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_blocks: Blocks, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = converting(code_blocks("docs/released_weights.md"))
    policy = FlowPolicy(load_task("brick_sorting", "tiny"))
    policy.save_pretrained("policies/pi05")
    torch.nn.init.constant_(next(policy.parameters()), 0.125)
    weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    dcp.save({"model": weights, "step": 3}, checkpoint_id="runs/fsdp/checkpoint", no_dist=True)
    into = commands["policies/pi05-tuned"]
    assert main(into) == 0
    tuned = FlowPolicy.from_pretrained("policies/pi05-tuned").state_dict()
    assert all(torch.allclose(tuned[name], tensor, atol=1e-2) for name, tensor in weights.items())  # fp16 on disk
    assert main([*commands["weights.safetensors"], "--prefix", "model"]) == 0
    assert load_file("weights.safetensors").keys() == weights.keys()
    save_file({"x": torch.ones(1)}, "other.safetensors")
    capsys.readouterr()
    assert main(["convert", "dcp", "other.safetensors", *into[3:5], "--out", "new"]) != 0
    assert "does not fit policies/pi05: missing" in capsys.readouterr().err
    assert not Path("new").exists()
