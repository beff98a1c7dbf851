"""What `rise check` looks for: every kind of finding, what it spoils and what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "ROOMS", "SEVERITIES", "Kind", "catalogue_table"]

#: From the worst on.
SEVERITIES = ("error", "warning", "note")
ROOMS = ("files", "cameras", "joints", "commands", "outcomes", "episodes", "coverage")


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        room: What it is about, one of `ROOMS`.
        title: It in a few words.
        severities: How bad it may be, the usual one first.
        spoils: What goes wrong if nothing is done.
        mends: What to do.
    """

    room: str
    title: str
    severities: tuple[str, ...]
    spoils: str
    mends: str


_ERROR, _WARNING, _NOTE = ("error",), ("warning",), ("note",)

CATALOGUE: Mapping[str, Kind] = {
    "metadata": Kind(
        "files",
        "metadata cannot be read",
        _ERROR,
        "Nothing can be trained: the dataset cannot be opened.",
        "Correct the file that is named, or copy or download the dataset again.",
    ),
    "damaged_rows": Kind(
        "files",
        "joint values of episodes cannot be read",
        _ERROR,
        "Training stops when it opens the dataset.",
        "Copy these files again, or leave the episodes out: --skip-bad-episodes.",
    ),
    "damaged_pictures": Kind(
        "files",
        "videos or images missing, damaged or of another size",
        _ERROR,
        "Training stops when it decodes the videos.",
        "Copy or record these files again, or leave the episodes out: --skip-bad-episodes.",
    ),
    "doubtful_video": Kind(
        "files",
        "a video's time stamps or length do not fit the table",
        _WARNING,
        "Pictures may belong to other joint values than it seems; a policy may act at the wrong speed.",
        "Correct `fps` in meta/info.json or from_timestamp in meta/episodes; look at the films.",
    ),
    "no_cameras": Kind(
        "cameras",
        "no camera",
        _ERROR,
        "There is nothing to imagine: world model and policy need pictures.",
        "Record at least one camera as a feature of dtype video or image.",
    ),
    "task_mismatch": Kind(
        "files",
        "the dataset is not what the task describes",
        _ERROR,
        "Training stops when it opens the dataset.",
        "Change the named key of the task, choose another task, or --trust-layout where joints have no names.",
    ),
    "blank": Kind(
        "cameras",
        "black, white or empty pictures",
        ("warning", "error"),
        "The model learns that the scene vanishes, and spends its capacity on that.",
        "Leave these episodes out; check exposure, cable and lens cap.",
    ),
    "frozen": Kind(
        "cameras",
        "pictures stand while joints move",
        ("warning", "error"),
        "The world model learns that actions have no effect, the policy that it cannot trust this camera.",
        "Leave these episodes out, or the camera (`cameras` of the task); check USB bandwidth and the driver.",
    ),
    "camera_rate": Kind(
        "cameras",
        "pictures are repeated: the camera is slower than the dataset",
        _WARNING,
        "Between two frames nothing moves, then twice as much: motion that actions do not explain.",
        "Set the camera to the rate of the dataset, or take a `stride` of the task that skips the repeated frames.",
    ),
    "sync": Kind(
        "cameras",
        "pictures and joint values belong to different moments",
        _WARNING,
        "What the model sees is not where the joints are: imagination lags, grasps come too late or too early.",
        "Shift the pictures by the frames that are named before recording is continued; stamp both with one clock.",
    ),
    "exposure_jumps": Kind(
        "cameras",
        "brightness jumps within episodes",
        _WARNING,
        "The world model has to guess the camera's exposure, and PSNR measures that instead of motion.",
        "Fix exposure, gain and white balance of the camera.",
    ),
    "lighting": Kind(
        "cameras",
        "lighting differs much between episodes",
        _NOTE,
        "Held-out figures depend on which light falls to them; it also makes a policy robust.",
        "Nothing, if it is meant; else fix lights and exposure.",
    ),
    "cameras_exchanged": Kind(
        "cameras",
        "cameras exchanged in some episodes",
        _ERROR,
        "Left and right are mixed up: what is learned of these episodes is wrong.",
        "Rename the cameras in these episodes, or leave them out; bind cameras by serial number, not by index.",
    ),
    "joints_differ": Kind(
        "joints",
        "state and action have other joints than each other",
        _ERROR,
        "Actions cannot be read as targets of the measured joints; the dataset cannot be opened.",
        "Name features that belong together: --state-key and --action-key.",
    ),
    "not_finite": Kind(
        "joints",
        "NaN or infinite joint values",
        _ERROR,
        "Training stops when it opens the dataset: one NaN makes every weight NaN.",
        "Repair the values, or leave the episodes out: --skip-bad-episodes.",
    ),
    "impossible": Kind(
        "joints",
        "joint values that no joint reaches",
        _ERROR,
        "Normalisation squeezes all real motion into a sliver; training refuses them.",
        "Convert the units, repair the values, or leave the episodes out: --skip-bad-episodes.",
    ),
    "limits": Kind(
        "joints",
        "joint values beyond the limits of the task's layout",
        _WARNING,
        "The environment's action space does not contain what was recorded: such commands are clipped.",
        "Convert the values to the layout's units, or widen `lower` and `upper` of the layout.",
    ),
    "unit_unlikely": Kind(
        "joints",
        "values that are no angles in rad",
        ("note", "warning"),
        "Without a layout every joint counts as rad: limits, safety and errors are told in the wrong unit.",
        "Describe the joints in a layout with their units: `rise init-task` guesses them. Convert steps of encoders.",
    ),
    "constant_joint": Kind(
        "joints",
        "dimensions that never change",
        _NOTE,
        "Nothing is learned of them; a policy keeps them where they are.",
        "Leave them out of state and action if the robot does not use them.",
    ),
    "dead_sensor": Kind(
        "joints",
        "commands change, the measured joint never does",
        _WARNING,
        "The policy cannot see where this joint is.",
        "Check the joint's feedback and its place in the state vector.",
    ),
    "dead_command": Kind(
        "joints",
        "a joint moves without commands",
        _WARNING,
        "The world model sees motion that no action explains, and a policy cannot command it.",
        "Check the joint's place in the action vector; record the leader's value.",
    ),
    "noisy_joint": Kind(
        "joints",
        "noise is a large part of a joint's range",
        _WARNING,
        "Normalisation blows the noise up to the size of a motion: losses and policies follow it.",
        "Filter the signal when recording, or leave the dimension out.",
    ),
    "spikes": Kind(
        "joints",
        "single frames far away from those before and after",
        _WARNING,
        "They widen the range that everything is normalised by, and teach jumps.",
        "Repair them (the mean of the neighbours), or leave the episodes out.",
    ),
    "angle_wraps": Kind(
        "joints",
        "angles jump by a whole turn",
        _ERROR,
        "The same place has two numbers: means, targets between them and losses are nonsense.",
        "Unwrap the angle (numpy.unwrap) in state and action.",
    ),
    "sign": Kind(
        "commands",
        "commands and motion run against each other",
        _ERROR,
        "The sign of the joint differs between state and action: a policy would drive the robot the wrong way.",
        "Turn the sign of one of them.",
    ),
    "joint_order": Kind(
        "commands",
        "commands move another joint than their name says",
        _ERROR,
        "The order of joints differs between state and action.",
        "Bring both into the same order.",
    ),
    "units_differ": Kind(
        "commands",
        "state and action have different units",
        _ERROR,
        "A target cannot be compared with where the joint is; safety limits refuse it.",
        "Convert both to rad and m.",
    ),
    "actions_relative": Kind(
        "commands",
        "actions are changes, not targets",
        _ERROR,
        "RISE reads actions as absolute joint targets; imagination and robot would jump to near zero.",
        "Write absolute targets: add the state of the same frame, or record the leader's joints.",
    ),
    "actions_are_states": Kind(
        "commands",
        "actions are recorded states",
        ("note", "warning"),
        "The robot was guided by hand, or actions were made up later: they do not lead the motion as commands do, and "
        "never push against anything. A robot that follows such targets arrives late and grips weakly.",
        "Record commands of a leader arm. Else shift actions to a later frame by the robot's own lag.",
    ),
    "action_late": Kind(
        "commands",
        "actions follow what was measured",
        ("error", "warning"),
        "A policy learns to repeat what has happened already, and moves the robot backwards first.",
        "Shift actions by the frames that are named; stamp state and action with one clock.",
    ),
    "lag_long": Kind(
        "commands",
        "joints follow their commands by more than a third of a chunk",
        ("warning", "note"),
        "The end of a chunk shows what earlier commands did: advantages go to the wrong actions.",
        "Choose a longer chunk, as `rise init-task` does (task.chunk), and lags of the policy (policy.model.lags).",
    ),
    "does_not_follow": Kind(
        "commands",
        "a joint does not follow its commands",
        _WARNING,
        "Imagination cannot learn what these commands do.",
        "Check the order of joints and whether the command was executed at all.",
    ),
    "held_values": Kind(
        "commands",
        "values are repeated: sampled more slowly than the dataset says",
        _WARNING,
        "Motion looks like steps; velocities and lags are wrong.",
        "Read joints at the rate of the dataset, or record at the rate of the joints.",
    ),
    "outcomes_missing": Kind(
        "outcomes",
        "no recorded outcomes",
        ("warning", "error"),
        "A value model has nothing to learn from: `rise train bundle` stops.",
        "Say how episodes ended: rise label DATASET --outcome success 3,7-9=failure. Where all succeeded, a task may "
        "say value.labels.outcome: success.",
    ),
    "outcomes_unclear": Kind(
        "outcomes",
        "recorded outcomes that cannot be understood",
        _ERROR,
        "Training stops when it reads them: an outcome is never guessed.",
        "Write True or False, one per episode.",
    ),
    "outcomes_assumed": Kind(
        "outcomes",
        "the task takes every episode for a success",
        ("note", "warning"),
        "The value learns progress alone; it cannot tell a failure from a slow success.",
        "Record some failures and say so: rise label DATASET --outcome ..., value.labels.outcome: recorded.",
    ),
    "no_failures": Kind(
        "outcomes",
        "no failures",
        _WARNING,
        "The value learns progress alone, and imagines success where there is none.",
        "Record failures as well: a policy's own rollouts are best.",
    ),
    "no_successes": Kind(
        "outcomes",
        "no successes",
        ("error", "warning"),
        "No frame is worth more than another: there is nothing to improve towards.",
        "Record demonstrations that succeed.",
    ),
    "few_outcomes": Kind(
        "outcomes",
        "hardly any failures, or hardly any successes",
        _NOTE,
        "What the value says of the rare kind rests on a few episodes; held-out figures of it mean little.",
        "Record more of the rare kind.",
    ),
    "rate": Kind(
        "episodes",
        "time stamps contradict the frame rate",
        _ERROR,
        "A policy would act at the wrong speed.",
        "Correct `fps` in meta/info.json, or the column timestamp.",
    ),
    "gaps": Kind(
        "episodes",
        "frames missing, or recorded unevenly",
        _WARNING,
        "The same action leads once this far and once twice as far: imagination blurs.",
        "Leave the episodes with long gaps out; record with a fixed clock.",
    ),
    "one_episode": Kind(
        "episodes",
        "one episode",
        _ERROR,
        "Nothing can be held out: training stops.",
        "Record more episodes.",
    ),
    "few_episodes": Kind(
        "episodes",
        "few episodes",
        _WARNING,
        "Models learn them by heart: a value trained on 8 real episodes ranked held-out ones backwards, on 93 at "
        "+0.66.",
        "Record 50 or more.",
    ),
    "too_short": Kind(
        "episodes",
        "episodes shorter than a chunk",
        ("warning", "error"),
        "No training window fits in: nothing is learned of them.",
        "Leave them out, or choose a shorter chunk (task.chunk).",
    ),
    "odd_length": Kind(
        "episodes",
        "episodes of very unusual length",
        _NOTE,
        "Often a recording that was stopped too early or forgotten: its progress labels are wrong.",
        "Look at them; leave them out or cut them.",
    ),
    "duplicates": Kind(
        "episodes",
        "episodes that repeat others",
        _WARNING,
        "The same episode is trained on and held out: held-out figures are too good.",
        "Remove the copies (lerobot-edit-dataset).",
    ),
    "idle": Kind(
        "episodes",
        "long pauses at the start or end of episodes",
        _NOTE,
        "Policies learn to wait, and progress labels by time run on while nothing happens.",
        "Cut the pauses, or start recording with the first motion.",
    ),
    "no_instruction": Kind(
        "episodes",
        "episodes without an instruction",
        _WARNING,
        "A policy that reads language cannot tell what to do.",
        "Write the instruction into meta/tasks.",
    ),
    "several_tasks": Kind(
        "episodes",
        "several instructions",
        _NOTE,
        "One world model learns them together; a value model of one task misreads the others.",
        "Nothing, if it is meant; else split the dataset by task.",
    ),
    "same_start": Kind(
        "coverage",
        "episodes begin with the joints in one place",
        _NOTE,
        "A policy has not seen other starts, and imagination begins there alone.",
        "Vary the arm's first pose a little.",
    ),
    "same_scene": Kind(
        "coverage",
        "episodes begin with the same scene",
        _WARNING,
        "A policy learns the motion by heart and fails where objects stand elsewhere.",
        "Vary the places of objects from episode to episode.",
    ),
}


def catalogue_table() -> str:
    """All kinds as a Markdown table, for the documentation."""
    lines = ["| code | severity | found | spoils | mends |", "| --- | --- | --- | --- | --- |"]
    for code, kind in CATALOGUE.items():
        severity = ", ".join(kind.severities)
        lines.append(f"| `{code}` | {severity} | {kind.title} | {kind.spoils} | {kind.mends} |")
    return "\n".join(lines)
