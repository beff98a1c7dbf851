"""SmolVLAPolicy: SmolVLA (arXiv 2506.01844) in LeRobot's implementation, conditioned on the advantage."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rise_agents.policies.base import Context, VelocityField, stack_views
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.lerobot_loading import Loaded, image_batch
from rise_agents.policies.lerobot_policy import LeRobotPolicy, LeRobotPolicyConfig, WithAdvantage, guided
from rise_agents.policies.real_time import RtcConstraint
from rise_agents.policies.text_context import TextContext, text_bytes
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

__all__ = ["SmolVLAPolicy"]


@dataclass(frozen=True)
class _Prefix:
    """What the language model has read: which tokens are there, keys and values, last hidden states."""

    padding: torch.Tensor
    cache: Any
    output: torch.Tensor


class SmolVLAPolicy(LeRobotPolicy):
    """LeRobot's SmolVLA: images, joint state and instruction in, action chunk out.

    The language model is frozen, as in SmolVLA's own training; the action expert learns. The advantage's embedding is
    added to that of every noisy action. Arguments as of `LeRobotPolicy`.
    """

    kind = "rise-smolvla-policy"
    lerobot_type = "smolvla"
    lags = ()

    def __init__(self, spec: TaskSpec, config: LeRobotPolicyConfig, codec: AdvantageCodec, loaded: Loaded) -> None:
        theirs = loaded.policy.config
        if theirs.adapt_to_pi_aloha or theirs.n_obs_steps != 1:
            raise ConfigError("SmolVLA is trained here with n_obs_steps=1 and without adapt_to_pi_aloha")
        super().__init__(spec, config, codec, loaded)
        theirs.use_cache = True  # the language model reads once per chunk
        model = self.network.model
        model.action_in_proj = WithAdvantage(model.action_in_proj, codec.num_bins + 1)
        vlm = model.vlm_with_expert.vlm
        if vlm.lm_head.weight is vlm.get_input_embeddings().weight:  # a file does not hold the same weight twice
            vlm.lm_head.weight = nn.Parameter(vlm.lm_head.weight.detach().clone())
        self.requires_grad_(False)
        for weight in self.action_parameters():
            weight.requires_grad_(True)

    @property
    def _length(self) -> int:
        return int(self.network.config.chunk_size)

    @property
    def _width(self) -> int:
        return int(self.network.config.max_action_dim)

    @classmethod
    def _settings_of(cls, config: Any) -> dict[str, Any]:
        return {"steps": config.num_steps}

    def context(
        self, observations: Mapping[str, torch.Tensor], prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> TextContext:
        """Take down images, state and instruction (see `Policy.context`); pictures are not augmented."""
        frames, states = stack_views(observations, self.spec, ())
        return TextContext(frames[:, 0], states[:, 0], text_bytes(prompts).to(states.device))

    @torch.no_grad()
    def _read(self, context: Context) -> _Prefix:
        """Let the language model read images, instruction and state; the first half of LeRobot's `sample_actions`."""
        from lerobot.policies.common.vla_utils import make_att_2d_masks
        from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE

        known, model = TextContext.of(context), self.network.model
        batch = {**image_batch(known.features, self.spec, self.config.cameras), OBS_STATE: known.state}
        seen = self.preprocessor({**batch, "task": known.texts()})
        words = seen[OBS_LANGUAGE_TOKENS], seen[OBS_LANGUAGE_ATTENTION_MASK]
        state = self.network.prepare_state(seen)
        embedded, padding, attention = model.embed_prefix(*self.network.prepare_images(seen), *words, state=state)
        (output, _), cache = model.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(padding, attention),
            position_ids=torch.cumsum(padding, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        return _Prefix(padding, cache, output)

    def _velocity(
        self, prefix: _Prefix, noisy: torch.Tensor, time: torch.Tensor, advantage_bins: torch.Tensor
    ) -> torch.Tensor:
        cache = copy.copy(prefix.cache)  # LeRobot appends to it, and cuts that off again
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        packed = WithAdvantage.pack(noisy, advantage_bins)
        found: torch.Tensor = self.network.model.denoise_step(prefix.padding, cache, packed, time)
        return found

    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """See `Policy.velocity_field`. The language model gets no gradient, the action expert does."""
        prefix, asked = self._read(context), self._bins_of(advantage_bins, guidance)

        def field(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return guided([self._velocity(prefix, noisy, time, bins) for bins in asked], guidance)

        return field

    def features_of(self, context: Context, advantage_bins: torch.Tensor) -> torch.Tensor:
        """Mean of the language model's last hidden states over what it reads (see `Policy.features_of`)."""
        prefix = self._read(context)
        weight = prefix.padding[..., None].float()
        return (prefix.output.float() * weight).sum(1) / weight.sum(1)

    def sample(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        noise: torch.Tensor,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
        rtc: RtcConstraint | None = None,
    ) -> torch.Tensor:
        """Action chunks by LeRobot's Euler steps (see `Policy.sample`).

        Raises:
            ConfigError: If real-time chunking is asked for.
        """
        from lerobot.policies.common.flow_matching import euler_integrate

        if rtc is not None:
            raise ConfigError("SmolVLA knows no real-time chunking here; use the execution strategy smooth")
        field, count = self.velocity_field(context, advantage_bins, guidance), steps or self.config.steps
        return self.denormalise(euler_integrate(field, noise.reshape(-1, *self.noise_shape), count), context.state)

    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss of each chunk, (B,), as LeRobot's (see `Policy.loss`)."""
        prefix, clean = self._read(context), self.normalise(chunks, context.state)
        share = self.config.condition_dropout if condition_dropout is None else condition_dropout
        errors = []
        for _ in range(self.config.noise_samples):
            noise, time, bins = self.training_draws(clean, advantage_bins, generator, share)
            noisy = time[:, None, None] * noise + (1 - time[:, None, None]) * clean
            errors.append(self._velocity(prefix, noisy, time, bins) - (noise - clean))
        return self._mean_square(torch.cat(errors))

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the action expert and of the projections into and out of it."""
        model = self.network.model
        parts = [model.vlm_with_expert.lm_expert, model.action_in_proj, model.action_out_proj]
        parts += [model.action_time_mlp_in, model.action_time_mlp_out]
        return [weight for part in parts for weight in part.parameters()]

    def _fold(self, network: Any, advantage_bin: int) -> None:
        network.model.action_in_proj = network.model.action_in_proj.folded(advantage_bin)
        network.config.num_steps = self.config.steps
