"""T5-XXL's embedding of the empty caption: all that the released model takes from a text encoder of 4.7 B numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rise_env.errors import CheckpointError
from rise_env.files import atomic_path, refuse_existing
from rise_env.foreign_weights import load_weights
from rise_env.pretrained import flaws, listed

__all__ = ["embed_empty_caption", "read_caption", "write_caption"]

#: Length to which the release pads captions. The encoder has no attention mask, so it matters.
_LENGTH = 128
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@torch.no_grad()
def embed_empty_caption(folder: str | Path, dtype: str = "bf16", device: str = "cpu") -> torch.Tensor:
    """Embedding float32 (128, width) of the empty caption, as the release makes it.

    The text is the end token, padded to 128 tokens, and the encoder attends to the padding.

    Args:
        folder: T5 as transformers saves it, or a directory that has it as `text_encoder` (LTX-Video). Its tokenizer is
            asked where there is one in transformers' own form (`tokenizer.json`, here or in `tokenizer`); else the end
            and padding tokens of its `config.json` are taken, which is what T5's tokenizer makes of no text.
        dtype: "bf16", as the release computes it, or "fp32".
        device: Where it is computed.

    Raises:
        CheckpointError: If there is no T5, or its weights are incomplete or damaged.
    """
    root = Path(folder)
    home = root / "text_encoder" if (root / "text_encoder").is_dir() else root
    if not (home / "config.json").is_file():
        raise CheckpointError(f"no T5 text encoder at {root}: expected config.json and weights, or text_encoder/")
    from transformers import T5EncoderModel

    try:
        if (kind := json.loads((home / "config.json").read_text(encoding="utf-8")).get("model_type")) != "t5":
            raise CheckpointError(f"{home} holds a model of type {kind!r}, expected 't5'")
        model, report = T5EncoderModel.from_pretrained(
            home, dtype=_DTYPES[dtype], local_files_only=True, output_loading_info=True
        )
    except CheckpointError:
        raise
    except Exception as error:  # what is damaged fails in many ways
        raise CheckpointError(f"{home} holds no usable T5: {str(error).splitlines()[0]:.200}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"the T5 of {home} is not complete: {listed([f'missing {name}' for name in missing], 3)}")
    tokens = torch.tensor([_tokens([home, root / "tokenizer", home.parent / "tokenizer"], model.config)])
    embedded = model.eval().to(device)(tokens.to(device)).last_hidden_state[0].float().cpu()
    if flaws({"embedding": embedded}):
        raise CheckpointError(f"the T5 of {home} gives NaN or infinities: its weights are damaged")
    return embedded


def _tokens(folders: list[Path], config: object) -> list[int]:
    """Numbers of the tokens of the empty caption, 128 of them."""
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            encoded: list[int] = tokenizer("", padding="max_length", max_length=_LENGTH, truncation=True)["input_ids"]
            return encoded
    return [config.eos_token_id, *[config.pad_token_id] * (_LENGTH - 1)]  # type: ignore[attr-defined]


def write_caption(folder: str | Path, out: str | Path, tokens: int = 26, dtype: str = "bf16") -> torch.Tensor:
    """Make the constant and write it, in one step.

    Args:
        folder: See `embed_empty_caption`.
        out: safetensors file to make; must not exist.
        tokens: Leading tokens to keep, the number of actions and one: the released model masks the others out.
        dtype: See `embed_empty_caption`.

    Returns:
        What was written, float32 (tokens, width).
    """
    refuse_existing(out)
    embedded = embed_empty_caption(folder, dtype)[:tokens].contiguous()
    from safetensors.torch import save_file

    with atomic_path(out) as aside:
        save_file({"caption": embedded}, aside)
    return embedded


def read_caption(path: str | Path) -> torch.Tensor:
    """The embedding (n, width) in a file that holds nothing else, of shape (n, width) or (1, n, width).

    Raises:
        CheckpointError: If there is no such file, or there is something else in it.
    """
    tensors = load_weights(path)
    if len(tensors) != 1:
        raise CheckpointError(f"{path} holds {len(tensors)} tensors, expected the caption embedding alone")
    (caption,) = tensors.values()
    caption = caption[0] if caption.dim() == 3 and len(caption) == 1 else caption
    if not bool(caption.any()):
        raise CheckpointError(f"{path} holds zeros: no caption embedding that the weights were trained with")
    return caption
