"""The demo's report: films of episodes that changed or fail, value curves, learning curves, what was imagined."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_agents.evaluation.results import EvaluationResult
from rise_agents.pipelines.demo_films import EpisodeFilms, imagined_films
from rise_agents.policies.base import Policy
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.report import write_report
from rise_agents.reporting.success_table import Row, one_sentence
from rise_agents.training.presets import AgentPreset
from rise_agents.training.runner import read_history
from rise_env.bundle import Bundle
from rise_env.files import read_json
from rise_env.provenance import provenance
from rise_robot.cell.task import failure_meanings

if TYPE_CHECKING:
    from rise_agents.pipelines.demo import Clock, Demo

__all__ = ["write_demo_report"]

_LINKS = (
    ("RISE: the paper whose method this is (arXiv 2602.11075)", "https://arxiv.org/abs/2602.11075"),
    ("Gymnasium: the interface of the environments", "https://gymnasium.farama.org"),
    ("LeRobot: the format of the recordings", "https://huggingface.co/docs/lerobot"),
    ("MuJoCo: the physics of the cell", "https://mujoco.readthedocs.io"),
)


def write_demo_report(
    demo: Demo,
    agent: AgentPreset,
    base: tuple[Policy, EvaluationResult],
    improved: tuple[Policy, EvaluationResult],
    bundle: Bundle,
    clock: Clock,
    described: dict[str, Any],
) -> Path:
    """Films and the HTML page."""
    (_, before), (new, after) = base, improved
    model = bundle.world_model()
    meanings = failure_meanings(demo.task)
    pictures = EpisodeFilms(demo, base, improved, model, meanings)
    pictures.changed()
    pictures.failed()
    done = read_json(demo.out / "rise" / "done.json", dict[str, Any])
    imagines = done.get("imagines", True)
    judged, judge = ("imagined chunks", "imagined") if imagines else ("judged chunks", "expected by the critic")
    films = [*pictures.films, *(imagined_films(demo, new, model) if imagines else [])]
    history = read_history(demo.out / "rise")
    learning = [
        Curve(title, judged, name, lines, reading)
        for title, name, tags, reading in (
            (f"Advantage of the chunks that are proposed, as {judge}", "mean advantage",
             {"rollout/advantage": "proposals", "rollout/base_advantage": "base policy",
              "rollout/advantage_next": "second chunk"},
             "How much a chunk raises the value, as imagined: above 0 it brings the task on. Where the proposals rise "
             "above the base policy, the policy gets better in imagination." if imagines else
             "How much more is expected of proposals, in the mean, than of the policy's own chunk. Most moved and "
             "turned chunks are worse than it; learned are those that are clearly better."),
            ("Training loss", "loss", {"train/loss": agent.algorithm},
             "How far the policy is from the chunks that it is to learn. They change as it learns: it need not fall."),
        )
        if (lines := {label: [(row["chunks"], row[tag]) for row in history if tag in row] for tag, label in tags.items()
                      if any(tag in row for row in history)})
    ]  # fmt: skip
    rows = [Row("base", before, "the policy before"), Row(agent.algorithm, after, f"{done['chunks']} {judged}")]
    source = provenance(described, demo.seed)
    return write_report(
        demo.out / "report.html",
        title=f"RISE: improved {'in imagination' if imagines else 'by a critic of outcomes'}, checked in the cell",
        summary=one_sentence(
            rows[0],
            rows[1],
            max(clock.seconds.get("improving", 0.0) / 60, 1e-3),
            "imagination" if imagines else "learning from its own episodes",
        ),
        rows=rows,
        about=_about(bundle, done["chunks"], imagines),
        tables=[("How it fails", _failures(before, after, meanings))],
        curves=[*learning, *pictures.curves],
        films=films,
        provenance=source,
        commands=_again(source["git"], demo.command),
        links=_LINKS,
    )


def _about(bundle: Bundle, chunks: int, imagines: bool) -> list[str]:
    """What this is, for somebody who is handed the page alone."""
    spec = bundle.spec
    how = (
        "RISE lets it practise without the robot. A world model, learned from recordings, imagines what the cameras "
        f"would see if a chunk were carried out; a value model says how much nearer to success that comes; the policy "
        f"learns to prefer what helps. All that was learned here comes from {chunks} such imagined chunks."
    )
    if not imagines:
        how = (
            "It learned from episodes of its own, which nobody demonstrated: first it cloned those that succeeded; "
            "then a critic, which has learned from successes and failures what comes of a chunk, judged chunks that "
            "were moved and turned a little, at the first moments of these episodes, and the policy learned the best. "
            f"All in all {chunks} chunks were judged; none was run, and none was imagined as pictures."
        )
    return [
        f"A robot policy looks at {len(spec.cameras)} cameras and at the joints, and commands both arms for "
        f"{spec.chunk / spec.fps:.1f} s at a time (a chunk). Its task here: \N{LEFT DOUBLE QUOTATION MARK}"
        f"{spec.prompt}\N{RIGHT DOUBLE QUOTATION MARK}",
        how,
        "Then the policy before and the policy after met the same episodes in a simulated work cell (MuJoCo), which "
        "counts the successes above. The cell stands for the robot: no real robot was used, and the numbers say "
        "nothing of one.",
    ]


def _failures(before: EvaluationResult, after: EvaluationResult, meanings: Mapping[str, str]) -> str:
    """Table of what went wrong how often."""
    modes = list(dict.fromkeys([*before.failure_modes, *after.failure_modes]))
    lines = "".join(
        f'<tr><th scope="row">{escape(mode)}</th><td>{escape(meanings.get(mode, ""))}</td>'
        f"<td>{before.failure_modes.get(mode, 0)}</td><td>{after.failure_modes.get(mode, 0)}</td></tr>"
        for mode in modes
    )
    head = "".join(f'<th scope="col">{text}</th>' for text in ("Failure", "What it means", "before", "after"))
    caption = f"Failed episodes by what went wrong first, of {before.episodes} each."
    table = f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    frame = f'<div class="scroll" tabindex="0" role="region"><table class="success">{table}</table></div>'
    return frame if modes else ""


def _again(git: Mapping[str, Any] | None, command: str) -> list[str]:
    """What to type to get the same."""
    if git is None:
        return [command]
    changed = "   # it had changes beside" if git["modified"] else ""
    return [f"git checkout {git['revision']}{changed}", "make setup", f".venv/bin/{command}"]
