"""Is a dataset good enough to train on? Findings, each with what it spoils and what mends it.

`reading`    joint values as they are on disk, faults included
`pictures`   what cameras recorded, measured while videos are decoded
`joints`     findings about joint values
`commands`   findings about commands against what was measured
`cameras`    findings about cameras
`episodes`   findings about episodes, outcomes and coverage
`catalogue`  all kinds of findings
`run`        all of them over a dataset
"""

from rise_env.data.check.catalogue import CATALOGUE, catalogue_table
from rise_env.data.check.finding import Finding
from rise_env.data.check.run import Checked, check_dataset

__all__ = ["CATALOGUE", "Checked", "Finding", "catalogue_table", "check_dataset"]
