"""What metadata of a LeRobot dataset must look like; checked once, where they are read."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from rise_env.errors import DatasetError, LayoutError
from rise_env.tasks import flatten_names

__all__ = [
    "Count", "EpisodeLine", "Feature", "Info", "Number", "Seconds", "TaskLine", "Text", "Version", "check_all",
    "parse_json", "place",
]  # fmt: skip

#: Bounds of what can be meant, so that nothing is asked of the memory before the files have been seen.
_MOST_FRAMES, _MOST_PIXELS, _MOST_FILES = 10**9, 10**6, 10**7
_PLACEHOLDERS = ("chunk_index", "file_index", "episode_chunk", "episode_index", "video_key", "image_key", "frame_index")
_CHANNELS = (1, 3, 4)

Number = Annotated[int, Field(ge=0, le=_MOST_FILES)]
Count = Annotated[int, Field(ge=-_MOST_FRAMES, le=_MOST_FRAMES)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Feature(_Strict):
    """An entry of `features` in `info.json`.

    Attributes:
        dtype: "video", "image" or the type of a column.
        shape: Shape of one frame's value.
        names: Names of its dimensions, flat.
    """

    dtype: str
    shape: tuple[Annotated[int, Field(ge=1, le=_MOST_PIXELS)], ...] = Field(max_length=8)
    names: tuple[str, ...] = ()
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @field_validator("names", mode="before")
    @classmethod
    def _flat(cls, names: Any) -> tuple[str, ...]:
        try:
            return flatten_names(names)
        except LayoutError as error:
            raise ValueError(str(error)) from None

    @property
    def count(self) -> int:
        """Number of values in a frame."""
        return math.prod(self.shape)

    @property
    def is_camera(self) -> bool:
        """Whether it is a camera's colour pictures."""
        details = {**(self.info or {}), **(self.video_info or {})}
        depth = details.get("is_depth_map") or details.get("video.is_depth_map")
        return self.dtype in ("video", "image") and not depth

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a picture, wherever the shape has its channels; ValueError if that cannot be told."""
        names = [name.lower() for name in self.names]
        if len(self.shape) == 2:
            return self.shape[0], self.shape[1]
        if len(self.shape) != 3:
            raise ValueError(f"shape {list(self.shape)} is none of a picture")
        small = [axis for axis in (2, 0, 1) if self.shape[axis] in _CHANNELS]
        if len(small) > 1 and len(names) == 3:  # the sizes do not tell: the names may
            colours = ("c", "channel", "channels", "rgb", "bgr", "rgba")
            small = [axis for axis in small if names[axis] in colours] or small
        if len(small) != 1:
            problem = "more than one axis" if small else "no axis"
            raise ValueError(f"shape {list(self.shape)} is none of a picture: {problem} has 1, 3 or 4 channels")
        rows, columns = (axis for axis in range(3) if axis != small[0])
        if len(names) == 3 and names[rows] in ("width", "w") and names[columns] in ("height", "h"):
            rows, columns = columns, rows
        return self.shape[rows], self.shape[columns]


class Version(_Strict):
    """The one key of `meta/info.json` that says how to read the rest."""

    codebase_version: str = "(none)"


class Info(Version):
    """`meta/info.json`."""

    fps: float = Field(gt=0, le=10_000, allow_inf_nan=False)
    robot_type: str | None = None
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: int = Field(default=1000, ge=1, le=_MOST_FILES)
    total_episodes: int | None = None
    total_frames: int | None = None

    @field_validator("data_path", "video_path")
    @classmethod
    def _template(cls, template: str | None) -> str | None:
        for _, name, spec, conversion in string.Formatter().parse(template or ""):
            if name is None:
                continue
            if name not in _PLACEHOLDERS:
                raise ValueError(f"{{{name}}} is unknown. Known: {', '.join(f'{{{one}}}' for one in _PLACEHOLDERS)}")
            if conversion or not re.fullmatch(r"(0\d)?d?", spec or ""):
                raise ValueError(f"{{{name}!{conversion or ''}:{spec}}}: expected a format such as {{{name}:06d}}")
        if template is not None and (Path(template).is_absolute() or ".." in Path(template).parts or "\0" in template):
            raise ValueError("it must lead to files inside the dataset")
        return template


class EpisodeLine(_Strict):
    """A line of `meta/episodes.jsonl`."""

    episode_index: Count
    length: Count
    tasks: Any = None
    episode_success: Any = None


class TaskLine(_Strict):
    """A line of `meta/tasks.jsonl`."""

    task_index: Count
    task: Text


def place(root: Path, template: str, key: str, **names: int | str) -> Path:
    """File of a path template of `info.json` (`key`).

    Raises:
        DatasetError: If the template asks for what the dataset does not have.
    """
    try:
        return root / template.format(**names)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in names)
        problem = f"{key} {template!r} does not fit, because of {error}; it may use {known}"
        raise DatasetError(f"{root / 'meta/info.json'}: {problem}") from None


def parse_json[Model: BaseModel](model: type[Model], content: bytes, where: object) -> Model:
    """Content of a JSON file as a model; a DatasetError that says `where`, key, value and what was expected."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DatasetError(f"{where}: {_explain(error)}") from None


def check_all(kind: Any, values: Sequence[Any], where: object, key: str) -> list[Any]:
    """Values of a column as a list of `kind`, one of the types above; a DatasetError that names the first wrong one."""
    try:
        return list(TypeAdapter(list[kind]).validate_python(list(values)))
    except ValidationError as error:
        raise DatasetError(f"{where}: column {key!r}, row {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"]))
    more = f" ({error.error_count()} such problems in all)" if error.error_count() > 1 else ""
    problem = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return f"not valid JSON: {problem.removeprefix('Invalid JSON: ')}"
    if first["type"] == "missing":
        return f"the metadata lack the key {path!r}{more}"
    if not path:
        return f"{problem}, got {first['input']!r:.80}"
    return f"{path} is {first['input']!r:.80}: {problem[:1].lower() + problem[1:]}{more}"
