"""The learned simulator's dynamics: history and action chunk in, imagined camera frames out.

`config`        every setting, one dataclass tree
`autoencoder`   images to latents and back: per frame, or LTX video
`transformer`   what moves the latents, at any size
`official`      the transformer of the public RISE / Genie-Envisioner checkpoint, key by key
`flow`          flow matching and the sampler
`settings`      how a trained model imagines: what needs no training
`session`       where sessions stand; what has been imagined and not looked at
`compiling`     torch.compile, announced and with a way back
`model`         `LatentDynamics`, the `rise_env.protocols.Dynamics` made of them
`training`      `train_dynamics`: autoencoder, then transformer; `run` says what a run is
`distillation`  few steps from many
"""

from __future__ import annotations
