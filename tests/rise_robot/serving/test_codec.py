"""The wire format: equal to openpi's byte by byte, a round trip for all it allows, and harmless for all else."""

from __future__ import annotations

import contextlib
import pickle
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rise_robot.serving.codec import MAX_DEPTH, MAX_ITEMS, WireError, decode, encode

# Of the published client: what its Packer makes of {"state": np.zeros(2, np.float32)}.
PUBLISHED = b"\x81\xa5state\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08"
PUBLISHED += b"\0\0\0\0\0\0\0\0\xc4\x05dtype\xa3<f4\xc4\x05shape\x91\x02"

numeric = st.one_of(
    st.just(np.dtype(bool)),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
arrays = hnp.arrays(
    st.one_of(
        numeric, hnp.unicode_string_dtypes(max_len=3), hnp.byte_string_dtypes(max_len=3), hnp.datetime64_dtypes()
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
scalars = numeric.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda array: array[()])
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
    arrays,
    scalars,
)
values = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3), st.dictionaries(st.text("ab_é", max_size=4), parts, max_size=3)
    ),
    max_leaves=12,
)


def same(sent: Any, got: Any) -> bool:
    """Equal to the last bit and of the same type, with what the wire makes of tuples and of float64 scalars."""
    if isinstance(sent, np.ndarray):
        return (
            isinstance(got, np.ndarray)
            and (sent.dtype.str, sent.shape) == (got.dtype.str, got.shape)
            and sent.tobytes() == got.tobytes()
            and not got.flags.writeable
        )
    if isinstance(sent, np.generic):
        if sent.dtype == np.float64:
            return type(got) is float and np.float64(got).tobytes() == sent.tobytes()
        return type(got) is type(sent) and (got == sent or (got != got and sent != sent))
    if isinstance(sent, dict):
        return list(sent) == list(got) and all(same(sent[key], got[key]) for key in sent)
    if isinstance(sent, list):
        return len(sent) == len(got) and all(map(same, sent, got))
    return type(sent) is type(got) and (sent == got or sent != sent)


@given(values)
def test_what_is_sent_arrives(value: Any) -> None:
    assert same(value, decode(encode(value)))


def test_bytes_are_those_of_openpi() -> None:
    assert encode({"state": np.zeros(2, np.float32)}) == PUBLISHED
    assert encode({"n": np.int64(3)}) == b"\x81\xa1n\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\x03\xc4\x05dtype\xa3<i8"
    assert encode(np.float64(0.5)) == encode(0.5)


def test_arrays_are_sent_in_c_order_whatever_they_lie_in() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for view in (image.transpose(2, 0, 1), image[:, ::2], np.asfortranarray(image)):
        assert np.array_equal(decode(encode(view)), view)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, [("x", "f4")]),
        np.zeros(2, np.complex64),
        np.complex128(1),
        np.longdouble(1),
        np.zeros(1, np.longdouble),
        np.datetime64("2026-01-01"),
        {1: 2},
        {b"__ndarray__": True},
        {"a": {"b": {1, 2}}},
        2**64,
        "\ud800",
        np.zeros((0, 2**40)),
        list(range(MAX_ITEMS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_said(value: Any) -> None:
    with pytest.raises(WireError):
        encode(value)


def test_the_message_says_where() -> None:
    with pytest.raises(WireError, match=r"images/head: a builtins\.set cannot be sent"):
        encode({"images": {"head": {1}}})


def test_depth_is_limited_and_a_loop_ends() -> None:
    value: Any = np.zeros(1)
    for _ in range(MAX_DEPTH):
        value = [value]
    assert same(value, decode(encode(value)))
    with pytest.raises(WireError, match="nested"):
        encode([value])
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(WireError, match="nested"):
        encode(loop)


def array(data: Any = b"\0" * 8, dtype: Any = "<f4", shape: Any = (2,), mark: Any = True, **more: Any) -> bytes:
    """A frame with one array, right or wrong."""
    return msgpack.packb({b"__ndarray__": mark, b"data": data, b"dtype": dtype, b"shape": shape, **more})


def scalar(data: Any = 1, dtype: Any = "<i4") -> bytes:
    return msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype})


HOSTILE = {
    "nothing": b"",
    "objects": array(dtype="|O"),
    "objects by name": array(dtype="object"),
    "structure": array(dtype="|V8"),
    "structure by list": array(dtype=[["x", "<f4"]]),
    "subarray": array(dtype="(2,)f4"),
    "fields": array(dtype="f4,f4"),
    "complex": array(dtype="<c8", shape=(1,)),
    "newline": array(dtype="<f4\n"),
    "unknown unit": array(dtype="<M8[parsec]", shape=(1,)),
    "no such float": array(dtype="<f3"),
    "no item size": array(b"", "<U0", (5,)),
    "text for data": array("\0" * 8),
    "text of no characters": array(b"\xff" * 8, "<U1"),
    "short": array(b"\0" * 7),
    "long": array(b"\0" * 9),
    "negative": array(shape=(-1, -2)),
    "huge": array(shape=(2**62, 2**62)),
    "huge and empty": array(b"", shape=(0, 2**62)),
    "too many sides": array(shape=(1,) * 64 + (2,)),
    "sides by halves": array(shape=(2.0,)),
    "truth for a side": array(b"\0" * 4, shape=(True,)),
    "shape is no list": array(shape=2),
    "not true": array(mark=1),
    "one key too many": array(user=1),
    "scalar of objects": scalar(1, "|O"),
    "scalar out of range": scalar(300, "|u1"),
    "scalar of text": scalar("1", "<f4"),
    "scalar of truth": scalar(True, "<i4"),
    "extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "time": msgpack.packb(msgpack.Timestamp(0, 0)),
    "number as a key": msgpack.packb({1: 2}),
    "bytes as a key": msgpack.packb({b"a": 2}),
    "list as a key": b"\x81\x90\x01",
    "repeated key": b"\x82\xa1a\x01\xa1a\x02",
    "repeated data": b"\x82\xc4\x04data\x01\xc4\x04data\x02",
    "no such code": b"\xc1",
    "bad text": b"\xa1\xff",
    "more than one": b"\x01\x02",
    "list that lies": b"\xdd\xff\xff\xff\xff",
    "map that lies": b"\xdf\xff\xff\xff\xff\xa1a",
    "bytes that lie": b"\xc6\xff\xff\xff\xff\0",
    "text that lies": b"\xdb\xff\xff\xff\xff",
    "no length": b"\xc6\0",
    "deep": b"\x91" * 400 + b"\x01",
    "very deep": b"\x91" * 300_000,
    "many": b"\xdd\x00\x01\x00\x00" + b"\x90" * 2**16,
    "pickle": pickle.dumps({"state": [1.0]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused(name: str) -> None:
    with pytest.raises(WireError):
        decode(HOSTILE[name])


@given(st.binary(max_size=64))
def test_any_bytes_decode_or_are_refused(frame: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(frame)


@given(values, st.data())
@example([np.zeros(3, "<U2")], None)
def test_any_damaged_frame_decodes_or_is_refused(value: Any, data: Any) -> None:
    frame = bytearray(encode(value))
    if data is None:
        frame[-20:-12] = b"\xff" * 8
    for _ in range(0 if data is None else data.draw(st.integers(1, 4))):
        if not frame:
            break
        place = data.draw(st.integers(0, len(frame) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                frame[place] = data.draw(st.integers(0, 255))
            case "cut":
                del frame[place:]
            case "insert":
                frame[place:place] = data.draw(st.binary(min_size=1, max_size=4))
            case "repeat":
                frame += frame[place:]
    with contextlib.suppress(WireError):
        decode(bytes(frame))


def test_every_cut_of_a_frame_is_refused() -> None:
    frame = encode({"state": np.zeros(3), "images": {"head": np.zeros((2, 2, 3), np.uint8)}, "prompt": "x" * 40})
    for end in range(len(frame)):
        with pytest.raises(WireError):
            decode(frame[:end])


def test_memory_is_bounded_by_the_frame() -> None:
    frames = [
        *HOSTILE.values(),
        b"\x90" * 2**20,
        b"\xdd\x00\x0f\xff\xff" + b"\x80" * 2**20,
        array(b"\0" * 2**20, "|u1", (2**20,)),
    ]
    for frame in frames:
        tracemalloc.start()
        try:
            with contextlib.suppress(WireError):
                decode(frame)
            assert tracemalloc.get_traced_memory()[1] < 2 * len(frame) + 3_000_000
        finally:
            tracemalloc.stop()
