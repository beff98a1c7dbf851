"""The openpi wire format: msgpack with NumPy arrays, and nothing that a stranger's bytes could do harm with.

An array is the map {b"__ndarray__": True, b"data": bytes in C order, b"dtype": "<f4", b"shape": [ints]}, a NumPy scalar
{b"__npgeneric__": True, b"data": value, b"dtype": "<f4"}. These keys are binary, those of a user are text. Nothing is
ever executed, and what decoding allocates is bounded by the length of the frame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from rise_env.errors import RiseError

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "WireError", "decode", "encode"]

#: Maps and lists within one another, at most.
MAX_DEPTH = 16
#: Values in one frame (the parts of maps, lists and array headers all count), at most.
MAX_ITEMS = 20_000

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_MAX_NDIM = 32
#: Sides and item sizes of arrays without elements, which no data length bounds.
_MAX_EMPTY = 2**16
_NUMBERS = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")
_DTYPES = re.compile(rf"{_NUMBERS.pattern}|[<>|=]?[SU][0-9]{{1,9}}|[<>|=]?[mM]8(?:\[[0-9]{{0,9}}[A-Za-z]{{1,7}}\])?")
_AN_ARRAY_MORE = 2  # levels that an array adds: its map, and its shape


class WireError(RiseError, ValueError):
    """A frame, or a value to be put into one, is not of the wire format."""


def encode(value: Any) -> bytes:
    r"""A value as one frame; WireError if something in it cannot be sent, is too deep or has too many parts; the
    message says where.

    Args:
        value: None, bool, int, float, str, bytes, NumPy arrays and scalars of booleans, integers and floats, arrays of
            fixed-length strings and times; and dicts with text keys, lists and tuples (which arrive as lists) of these.

    Example:
        >>> encode({"state": np.zeros(2, np.float32)})[:8]
        b'\x81\xa5state\x84'
    """
    try:
        frame = msgpack.packb(_plain(value, "", 0), use_bin_type=True)
    except (ValueError, OverflowError, TypeError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"cannot be sent: {error}") from error
    _scan(frame)
    return frame


def _plain(value: Any, where: str, depth: int) -> Any:
    """What msgpack itself can pack."""
    if isinstance(value, np.ndarray):
        _check_array(value.dtype.str, value.shape, value.nbytes, where)
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value  # float64 is a float to Python, and so it is on the wire
    if isinstance(value, np.generic):
        if not _NUMBERS.fullmatch(value.dtype.str):
            raise WireError(f"{_at(where)}a scalar of data type {value.dtype} cannot be sent; numbers and booleans can")
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    if depth >= MAX_DEPTH:
        raise WireError(f"{_at(where)}nested deeper than {MAX_DEPTH} maps and lists")
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise WireError(f"{_at(where)}key {wrong[0]!r} is a {type(wrong[0]).__name__}; keys must be text")
        return {key: _plain(part, f"{where}/{key}", depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{where}/{index}", depth + 1) for index, part in enumerate(value)]
    raise WireError(
        f"{_at(where)}a {type(value).__module__}.{type(value).__name__} cannot be sent; "
        "NumPy arrays, numbers, text, bytes, dicts and lists can"
    )


def decode(frame: bytes) -> Any:
    """The value in a frame; arrays are read-only.

    Raises:
        WireError: If the frame is malformed, cut short or followed by more; is nested deeper than `MAX_DEPTH` or has
            more than `MAX_ITEMS` parts; has keys that repeat or are no text; has an array of objects, of structures or
            of complex numbers, or one whose shape does not fit its data; or has extension types.

    Example:
        >>> decode(encode({"state": np.zeros(2, np.float32)}))
        {'state': array([0., 0.], dtype=float32)}
    """
    _scan(frame)
    try:
        return msgpack.unpackb(frame, raw=False, strict_map_key=True, object_pairs_hook=_map)
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"malformed frame: {error}") from error


def _scan(frame: bytes) -> None:
    """Walk over the headers of a frame before anything is allocated for what they announce."""
    size, position, items = len(frame), 0, 0
    open_parts = [1]  # parts still to come, of every map and list that is open
    while open_parts:
        if not open_parts[-1]:
            open_parts.pop()
            continue
        open_parts[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise WireError(f"the frame has more than {MAX_ITEMS} parts; send numbers as arrays")
        if position >= size:
            raise WireError(f"the frame is cut short after {size} bytes")
        code = frame[position]
        kind, length, width = _HEADERS[code]
        position += 1
        if width:
            length = int.from_bytes(frame[position : position + width])
            position += width
        if kind == "refused":
            raise WireError(f"the frame has type code 0x{code:02x} (an extension or none at all)")
        # Every part of a container takes a byte at least.
        if position + length > size:
            raise WireError(f"the frame is cut short after {size} bytes, or lies about a length")
        if kind == "bytes":
            position += length
        else:
            open_parts.append(length * 2 if kind == "map" else length)
            if len(open_parts) > MAX_DEPTH + _AN_ARRAY_MORE + 1:
                raise WireError(f"the frame is nested deeper than {MAX_DEPTH} maps and lists")
    if position != size:
        raise WireError(f"{size - position} bytes follow the value in the frame")


def _header(code: int) -> tuple[str, int, int]:
    """What a type code of msgpack opens: its kind, a length known by the code, and bytes that hold the length."""
    if code <= 0x7F or code >= 0xE0 or code in (0xC0, 0xC2, 0xC3):
        return "bytes", 0, 0  # small integers, nil and booleans are all code
    if code <= 0x9F:
        return "map" if code <= 0x8F else "list", code & 0x0F, 0
    if code <= 0xBF:
        return "bytes", code & 0x1F, 0
    numbers = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    if code in numbers:
        return "bytes", numbers[code], 0
    sized = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    kind = "bytes" if code < 0xDC else "list" if code < 0xDE else "map"
    return (kind, 0, sized[code]) if code in sized else ("refused", 0, 0)


_HEADERS = [_header(code) for code in range(256)]


def _map(pairs: list[tuple[Any, Any]]) -> Any:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise WireError(f"key {next(key for key in keys if keys.count(key) > 1)!r} repeats in a map")
    if _ARRAY in found:
        return _array(found)
    if _SCALAR in found:
        return _scalar(found)
    if wrong := [key for key in found if not isinstance(key, str)]:
        raise WireError(f"key {wrong[0]!r} is no text")
    return found


def _array(found: dict[Any, Any]) -> np.ndarray:
    if set(found) != {_ARRAY, b"data", b"dtype", b"shape"} or found[_ARRAY] is not True:
        raise WireError(f"an array has the keys {_names(found)}, expected __ndarray__ (true), data, dtype and shape")
    data, shape = found[b"data"], found[b"shape"]
    if not isinstance(data, bytes):
        raise WireError(f"the data of an array is a {type(data).__name__}, expected bytes")
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise WireError("the shape of an array is no list of integers")
    dtype = _check_array(found[b"dtype"], tuple(shape), len(data), "")
    array: np.ndarray = np.ndarray(tuple(shape), dtype, data)
    if dtype.kind == "U" and array.size and int(array.reshape(-1).view(dtype.byteorder + "u4").max()) > 0x10FFFF:
        raise WireError("an array of text has characters that do not exist")
    return array


def _scalar(found: dict[Any, Any]) -> Any:
    if set(found) != {_SCALAR, b"data", b"dtype"} or found[_SCALAR] is not True:
        raise WireError(f"a scalar has the keys {_names(found)}, expected __npgeneric__ (true), data and dtype")
    text, value = found[b"dtype"], found[b"data"]
    if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
        raise WireError(f"a scalar has data type {text!r}, expected a number or a boolean such as '<f4'")
    dtype = np.dtype(text)
    allowed = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    if type(value) not in allowed:
        raise WireError(f"a scalar of data type {text!r} has a {type(value).__name__} as its value")
    with np.errstate(over="ignore"):
        return dtype.type(value)


def _check_array(text: Any, shape: tuple[int, ...], size: int, where: str) -> np.dtype:
    """The data type of an array whose description is sound."""
    if not isinstance(text, str) or not _DTYPES.fullmatch(text):
        raise WireError(
            f"{_at(where)}arrays of data type {text!r} are not exchanged: booleans, integers, floats of up to 64 bits, "
            "fixed-length strings and times are; objects, structures and complex numbers are not"
        )
    dtype = np.dtype(text)
    if len(shape) > _MAX_NDIM or any(side < 0 for side in shape):
        raise WireError(f"{_at(where)}an array has shape {shape}: sides must not be negative, {_MAX_NDIM} at most")
    count = math.prod(shape)
    if count * dtype.itemsize != size or not dtype.itemsize:
        raise WireError(f"{_at(where)}an array of shape {shape} and type {text!r} has {size} bytes, which does not fit")
    if not count and max(*shape, dtype.itemsize, 0) > _MAX_EMPTY:
        raise WireError(f"{_at(where)}an array without elements has shape {shape}, sides at most {_MAX_EMPTY}")
    return dtype


def _names(found: Mapping[Any, Any]) -> str:
    return ", ".join(sorted(key.decode("ascii", "replace") if isinstance(key, bytes) else str(key) for key in found))


def _at(where: str) -> str:
    return f"{where.lstrip('/')}: " if where else ""
