"""Runs in an environment with openpi's own client (which needs numpy 1), never in ours: see test_openpi_peer.py.

Usage: openpi_peer.py pack | ask PORT [KEY] | serve
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from openpi_client import image_tools, msgpack_numpy, websocket_client_policy


def values() -> dict[str, object]:
    """What both sides pack; the test has the same function."""
    rng = np.random.RandomState(0)
    return {
        "state": np.zeros(2, np.float32),
        "images": {"top_head": rng.randint(0, 256, (3, 6, 8)).astype(np.uint8)},
        "transposed": rng.rand(2, 3, 4).transpose(2, 0, 1),
        "prompt": "Pick the bricks, schön",
        "flags": [True, False, None, np.bool_(True)],
        "numbers": [0, -1, 2**63, 0.5, np.float32(0.1), np.float64(0.1), np.int16(-7), np.uint8(200)],
        "text": np.array(["ab", "c"]),
        "empty": np.zeros((0, 3), np.int32),
        "big_endian": np.arange(3, dtype=">i2"),
        "tuple": (1, {"a": ()}),
        "bytes": b"\x00\xff",
        "long": list(range(20)),
        "scalar": np.array(3.0),
    }


def ask(port: int, key: str | None) -> None:
    """As openpi's examples do: resize with padding, ask, print what came."""
    client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, api_key=key)
    about = client.get_server_metadata()
    y, x = np.mgrid[0:480, 0:640]
    camera = np.stack([100 + 60 * np.sin(x / 90), 120 + 50 * np.cos(y / 70), 128 + 0 * x], -1).astype(np.uint8)
    small = image_tools.convert_to_uint8(image_tools.resize_with_pad(camera, 224, 224)).transpose(2, 0, 1)
    observation = {
        "state": np.full(about["action_shape"][1], 0.01),
        "images": dict.fromkeys(("top_head", "hand_right", "hand_left"), small),
        "prompt": "Pick the bricks off the conveyor.",
    }
    answers = [client.infer(observation) for _ in range(2)]
    try:
        client.infer({"state": np.zeros(3)})
        error = ""
    except RuntimeError as failure:
        error = str(failure)
    found = {
        "task": about["task"],
        "shape": answers[0]["actions"].shape,
        "dtype": str(answers[0]["actions"].dtype),
        "finite": bool(np.isfinite(answers[0]["actions"]).all()),
        "timing": [sorted(answer["server_timing"]) for answer in answers],
        "policy_timing": sorted(answers[0]["policy_timing"]),
        "bars": answers[0].get("image_bars"),
        "unread": answers[0].get("unread_keys", []),
        "error": error,
    }
    print(json.dumps(found))


async def serve() -> None:
    """A server that speaks with openpi's own codec: metadata, then twice the state, a text message on an error."""
    from websockets.asyncio.server import serve as listen

    packer = msgpack_numpy.Packer()

    async def handle(connection) -> None:
        await connection.send(packer.pack({"name": "peer"}))
        while True:
            observation = msgpack_numpy.unpackb(await connection.recv())
            if "state" not in observation:
                await connection.send("Traceback: no state")
                await connection.close(code=1011, reason="Internal server error.")
                return
            actions = np.stack([2 * observation["state"]] * 3)
            await connection.send(
                packer.pack({"actions": actions, "count": np.int64(1), "prompt": observation["prompt"]})
            )

    async with listen(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        print(json.dumps({name: msgpack_numpy.packb(value).hex() for name, value in values().items()}))
    elif sys.argv[1] == "ask":
        ask(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        asyncio.run(serve())
