"""The embedding of the empty caption, from a tiny T5 on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from rise_env.dynamics.caption import embed_empty_caption, read_caption, write_caption
from rise_env.errors import CheckpointError, ConfigError

WIDTH = 12


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As LTX-Video has it: `text_encoder` and `tokenizer` side by side."""
    folder = tmp_path_factory.mktemp("ltx")
    torch.manual_seed(0)
    config = T5Config(vocab_size=8, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@torch.no_grad()
def test_it_is_the_end_token_and_padding_without_a_mask(t5: Path, tmp_path: Path) -> None:
    embedded = embed_empty_caption(t5, "fp32")
    model = T5EncoderModel.from_pretrained(t5 / "text_encoder").eval()
    expected = model(torch.tensor([[1] + [0] * 127])).last_hidden_state[0]
    torch.testing.assert_close(embedded, expected)
    masked = model(torch.tensor([[1] + [0] * 127]), attention_mask=torch.tensor([[1] + [0] * 127])).last_hidden_state
    assert not torch.allclose(embedded[0], masked[0, 0])
    (tmp_path / "encoder").symlink_to(t5 / "text_encoder")  # no tokenizer beside it
    torch.testing.assert_close(embed_empty_caption(tmp_path / "encoder", "fp32"), expected)
    assert float((embed_empty_caption(t5) - expected).abs().max()) < 0.05  # bf16, as released


def test_one_command_writes_what_converting_reads(t5: Path, tmp_path: Path) -> None:
    out = tmp_path / "caption.safetensors"
    written = write_caption(t5, out)
    assert written.shape == (26, WIDTH)
    torch.testing.assert_close(read_caption(out), written)
    with pytest.raises(ConfigError, match="not overwritten"):
        write_caption(t5, out)
    save_file({"embeds": embed_empty_caption(t5)[None]}, tmp_path / "full.safetensors")
    assert read_caption(tmp_path / "full.safetensors").shape == (128, WIDTH)  # (1, 128, width) as pipelines cache it
    torch.save({"embeds": written}, tmp_path / "caption.pt")
    torch.testing.assert_close(read_caption(tmp_path / "caption.pt"), written)


def test_what_is_no_caption_or_no_t5_is_refused(t5: Path, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "two.safetensors")
    save_file({"a": torch.zeros(26, WIDTH)}, tmp_path / "zeros.safetensors")
    for name, message in {"two": "holds 2 tensors", "zeros": "holds zeros", "none": "does not exist"}.items():
        with pytest.raises(CheckpointError, match=message):
            read_caption(tmp_path / f"{name}.safetensors")
    for name in ("other", "short", "broken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((t5 / "text_encoder" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    tensors = load_file(t5 / "text_encoder" / "model.safetensors")
    lost = tensors.pop("encoder.block.0.layer.0.SelfAttention.q.weight")
    save_file(tensors, tmp_path / "short" / "model.safetensors", {"format": "pt"})
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 40)
    nan = {**tensors, "encoder.block.0.layer.0.SelfAttention.q.weight": torch.full_like(lost, float("nan"))}
    (tmp_path / "nan").mkdir()
    (tmp_path / "nan" / "config.json").write_text((t5 / "text_encoder" / "config.json").read_text())
    save_file(nan, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    for name, message in {
        "none": "no T5 text encoder", "other": "of type 'gpt2'", "short": "not complete: missing .*q.weight",
        "broken": "no usable T5", "nan": "gives NaN",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            embed_empty_caption(tmp_path / name)
