"""LeRobotDiffusion: Diffusion Policy (arXiv 2303.04137) in LeRobot's implementation, conditioned on the advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from rise_agents.policies.base import Context, VelocityField, stack_views
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.lerobot_loading import Loaded, image_batch
from rise_agents.policies.lerobot_policy import LeRobotPolicy, LeRobotPolicyConfig, WithAdvantage, guided
from rise_agents.policies.real_time import RtcConstraint
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

__all__ = ["LeRobotDiffusion"]


class LeRobotDiffusion(LeRobotPolicy):
    """LeRobot's Diffusion Policy: images and joint state in, action chunk out.

    Chunks are sampled by DDIM, a function of the initial noise, whatever scheduler the checkpoint names: the noise
    that LeRobot's DDPM draws at every step could be neither given nor steered. The advantage's embedding is added to
    that of the diffusion step. Arguments as of `LeRobotPolicy`.
    """

    kind = "rise-lerobot-diffusion"
    lerobot_type = "diffusion"

    def __init__(self, spec: TaskSpec, config: LeRobotPolicyConfig, codec: AdvantageCodec, loaded: Loaded) -> None:
        theirs = loaded.policy.config
        self.first = theirs.n_obs_steps - 1
        self.lags = tuple(range(1, theirs.n_obs_steps))
        super().__init__(spec, config, codec, loaded)
        unet = self.network.diffusion.unet
        unet.diffusion_step_encoder = WithAdvantage(unet.diffusion_step_encoder, codec.num_bins + 1, flat=True)
        self._ddim(config.steps)  # what does not fit is said at once

    @property
    def _length(self) -> int:
        return int(self.network.config.horizon)

    @property
    def _width(self) -> int:
        return self.spec.layout.dim

    @classmethod
    def _settings_of(cls, config: Any) -> dict[str, Any]:
        return {"steps": config.num_inference_steps or min(cls.Config.steps, config.num_train_timesteps)}

    def _ddim(self, steps: int) -> Any:
        """A scheduler of the network's noise, as LeRobot makes it for `noise_scheduler_type: DDIM`."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        theirs = self.network.diffusion.noise_scheduler.config
        names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample", "clip_sample_range")
        scheduler = DDIMScheduler(**{name: theirs[name] for name in (*names, "prediction_type")})
        if not 1 <= steps <= theirs.num_train_timesteps:
            raise ConfigError(
                f"steps is {steps}, expected 1 to {theirs.num_train_timesteps}, as the policy was trained"
            )
        scheduler.set_timesteps(steps)
        return scheduler

    def context(
        self, observations: Mapping[str, torch.Tensor], prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> Context:
        """Encode observations (see `Policy.context`); the instruction is not read, pictures are not augmented."""
        from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

        frames, states = stack_views(observations, self.spec, self.lags)
        moments = frames.shape[1]
        # The oldest first, as LeRobot's queues have it.
        batch = image_batch(frames.flip(1).flatten(0, 1), self.spec, self.config.cameras)
        said = [prompt for prompt in prompts for _ in range(moments)]
        seen = self.preprocessor({**batch, OBS_STATE: states.flip(1).flatten(0, 1), "task": said})
        images = torch.stack([seen[key] for key in self.network.config.image_features], dim=1)
        given = {OBS_IMAGES: images, OBS_STATE: seen[OBS_STATE]}
        grouped = {key: value.unflatten(0, (-1, moments)) for key, value in given.items()}
        return Context(self.network.diffusion._prepare_global_conditioning(grouped), states[:, 0])

    def _predict(
        self, noisy: torch.Tensor, time: torch.Tensor, features: torch.Tensor, advantage_bins: torch.Tensor
    ) -> torch.Tensor:
        packed = WithAdvantage.pack(time[:, None], advantage_bins)
        found: torch.Tensor = self.network.diffusion.unet(noisy, packed, global_cond=features)
        return found

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
        """Action chunks by DDIM (see `Policy.sample`).

        Raises:
            ConfigError: If real-time chunking is asked for.
        """
        if rtc is not None:
            raise ConfigError("LeRobot's Diffusion knows no real-time chunking; use the execution strategy smooth")
        scheduler = self._ddim(self.config.steps if steps is None else steps)
        x, asked = noise.reshape(-1, *self.noise_shape), self._bins_of(advantage_bins, guidance)
        for moment in scheduler.timesteps:
            time = torch.full((len(x),), int(moment), device=x.device)
            found = [self._predict(x, time, context.features, bins) for bins in asked]
            x = scheduler.step(guided(found, guidance), moment, x).prev_sample
        return self.denormalise(x, context.state)

    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """Denoising loss of each chunk, (B,), as LeRobot's (see `Policy.loss`)."""
        draws, scheduler = self.config.noise_samples, self.network.diffusion.noise_scheduler
        clean = self.normalise(chunks, context.state).repeat(draws, 1, 1)
        share = self.config.condition_dropout if condition_dropout is None else condition_dropout
        noise, _, bins = self.training_draws(clean, advantage_bins.repeat(draws), generator, share)
        time = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, time)
        predicted = self._predict(noisy, time, context.features.repeat(draws, 1), bins)
        return self._mean_square(predicted - (noise if scheduler.config.prediction_type == "epsilon" else clean))

    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """Not possible: a diffusion over discrete steps has no velocity.

        Raises:
            ConfigError: Always.
        """
        return self._no_flow()

    def loss_weight(self, time: torch.Tensor) -> torch.Tensor:
        """Not possible, as `velocity_field`."""
        return self._no_flow()

    @staticmethod
    def _no_flow() -> NoReturn:
        raise ConfigError(
            "LeRobot's Diffusion denoises in discrete steps and has no velocity: PPO needs a flow policy. Improve it "
            "by rise or selective_rise, or steer it by dsrl"
        )

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the U-Net; the image encoders stay as LeRobot left them."""
        return list(self.network.diffusion.unet.parameters())

    def _fold(self, network: Any, advantage_bin: int) -> None:
        unet, config = network.diffusion.unet, network.config
        unet.diffusion_step_encoder = unet.diffusion_step_encoder.folded(advantage_bin)
        config.noise_scheduler_type, config.num_inference_steps = "DDIM", self.config.steps
        network.diffusion.noise_scheduler = self._ddim(self.config.steps)
        network.diffusion.num_inference_steps = self.config.steps
