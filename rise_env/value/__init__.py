"""The value model: how far a task has come, seen from all cameras at one moment, and how sure it is of that.

`config`      every setting, the `value` section of a preset
`model`       `ValueModel`, a `rise_env.protocols.Value`
`labels`      outcome, progress and return of every recorded frame, from explicit columns
`losses`      progress, success, TD and distributional losses
`training`    `train_value`; its loop is in `loop`
`imagined`    imagined frames of recorded chunks, with true labels, to fine-tune on
`latents`     a dataset seen through the dynamics' encoder
`evaluation`  rank correlation, separation of outcomes, calibration
`labelling`   values and chunk advantages into sidecar files, with pictures
"""

from __future__ import annotations
