"""Message classes of piper_msgs, made from the definitions beside this file: nothing has to be built.

`rostopic echo` and the like import this module where `rise_robot/ros/share` is on Python's path.
"""

import importlib
from pathlib import Path

_dynamic = importlib.import_module("genpy.dynamic")
for _file in sorted(Path(__file__).parent.glob("*.msg")):
    _name = f"piper_msgs/{_file.stem}"
    globals()[_file.stem] = _dynamic.generate_dynamic(_name, _file.read_text(encoding="utf-8"))[_name]
