"""Writes the pages that are made from the code: `make pages`. A test compares them with it."""

from __future__ import annotations

from pathlib import Path

from rise_agents.pipelines.environment_page import environment_ids, environment_page, environment_table
from rise_agents.pipelines.settings import reference
from rise_env.files import write_text

__all__ = ["pages"]

_ENVIRONMENTS = """\
# Environments

A task has up to four environments with the same spaces, so that a policy for one of them acts in all. In
**imagination** a learned [world model](../simulator.md) predicts what the cameras will see. The
[work cell](../cell.md) is a simulation that stands for the robot. The **oracle** is the work cell with the interface of
imagination: what agents gain there and not in imagination is what the world model costs. The **robot** is a real one
behind a [driver](../robot.md).

![The experts of the three tasks, from the head camera](../images/tasks.png)

{table}

`rise info --environment ID` prints the page of an environment, those of your own [plug-ins](../plugins.md) included.

```{{toctree}}
:hidden:

{names}
```
"""


def pages() -> dict[str, str]:
    """Their texts, by their paths within this folder."""
    names = environment_ids()
    texts = {f"environments/{name}.md": environment_page(name) + "\n" for name in names}
    texts["environments/index.md"] = _ENVIRONMENTS.format(table=environment_table(), names="\n".join(names))
    texts["settings.md"] = reference() + "\n"
    return texts


if __name__ == "__main__":
    for path, text in pages().items():
        write_text(Path(__file__).parent / path, text)
