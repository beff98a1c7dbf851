"""A FAKE Hugging Face Hub on loopback, in memory: the few endpoints that uploads and downloads ask, as
`huggingface_hub` 1.x knows them. No test speaks to the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.bundle import Bundle, save_bundle
from rise_env.testing import counting_spec, counting_starts, counting_world_model
from rise_env.value.config import ModelConfig
from rise_env.value.model import InputShape, ValueModel
from rise_env.world_model import CompositionalWorldModel

TOKEN = "hf_fake"
LARGE = (".safetensors", ".npy", ".npz", ".bin")


@dataclass
class Repository:
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.refs["main"] = files, oid
        return oid

    def at(self, revision: str) -> str | None:
        oid = self.refs.get(revision, revision)
        return oid if oid in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


class FakeHub:
    """Attributes: `endpoint`, `repositories` by id, and `fetched`, the paths of files that were asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository that somebody else has made."""
        self.repositories[name] = Repository(private)
        self.repositories[name].commit({".gitattributes": b"", **files})
        return self.repositories[name]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any = None, status: int = 200, body: bool = True, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _fail(self, status: int, code: str = "") -> None:
        self._answer({"error": code}, status, self.command != "HEAD", X_Error_Code=code, X_Error_Message=code)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._known):
            self._fail(404 if self._known else 401, "RepoNotFound")
            return None
        return found

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(revision|tree)/(.+))?", path):
            name, revision = found[1], found[4] or "main"
            if (one := self._repository(name)) is None:
                return
            if (oid := one.at(revision)) is None:
                return self._fail(404, "RevisionNotFound")
            if found[3] == "tree":
                return self._answer([self._entry(*item) for item in one.commits[oid].items()])
            siblings = [{"rfilename": file} for file in one.commits[oid]]
            return self._answer({"id": name, "sha": oid, "private": one.private, "siblings": siblings, "tags": []})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (one := self._repository(found[1])) is None:
                return
            if (oid := one.at(found[2])) is None:
                return self._fail(404, "RevisionNotFound")
            if (data := one.commits[oid].get(found[3])) is None:
                return self._fail(404, "EntryNotFound")
            self.hub.fetched.append(found[3])
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            return self._answer(data, body=self.command == "GET", ETag=etag, X_Repo_Commit=oid)
        self._fail(404)

    @staticmethod
    def _entry(path: str, data: bytes) -> dict[str, Any]:
        oid = hashlib.sha256(data).hexdigest()
        lfs = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 130}} if path.endswith(LARGE) else {}
        return {"type": "file", "path": path, "size": len(data), "oid": oid[:40], **lfs}

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if not self._known:
            return self._fail(401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                return self._fail(409)
            self.hub.add(name, {}, asked.get("visibility") == "private")
            return self._answer({"url": f"{self.hub.endpoint}/{name}"})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|tag)/(.+)", path)
        if found is None or (one := self._repository(found[1])) is None:
            return None if found else self._fail(404)
        if found[2] == "tag":
            one.refs[json.loads(body)["tag"]] = one.refs["main"]
            return self._answer({})
        if found[2] == "preupload":
            modes = ((file["path"], "lfs" if file["path"].endswith(LARGE) else "regular")
                     for file in json.loads(body)["files"])  # fmt: skip
            return self._answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
        files = dict(one.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, one.refs["main"]):
                return self._fail(412)
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = one.commit(files)
        self._answer({"commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{oid}", "commitOid": oid, "success": True})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A fake Hub where one is logged in, and an empty cache."""
    from huggingface_hub import constants

    fake = FakeHub()
    settings = {
        "ENDPOINT": fake.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HUGGINGFACE_CO_URL_TEMPLATE": fake.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> FlowPolicy:
    """A policy of random weights, in the precision in which they are kept."""
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    place = tmp_path_factory.mktemp("policy")
    FlowPolicy(counting_spec(), FlowPolicyConfig(network=network, steps=1, noise_samples=1)).save_pretrained(place)
    return FlowPolicy.from_pretrained(place)


@pytest.fixture(scope="session")
def bundle(policy: FlowPolicy, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that imagines flat frames, with a value model and a policy of random weights."""
    place, spec = tmp_path_factory.mktemp("bundle"), counting_spec()
    torch.manual_seed(0)
    config = ModelConfig(channels=(8, 16), embed=16, hidden=16, members=2, text_vocabulary=64, text_embed=8)
    value = ValueModel(config, InputShape(tuple(spec.cameras), *spec.image_size)).eval()
    policy.save_pretrained(place / "policy")
    model = CompositionalWorldModel(counting_world_model().dynamics, value, spec)
    kept = {"episodes": [4, 7], "of": 20, "given": ["value"], "dynamics": {"psnr": 21.5}, "value": {"rank": 0.75}}
    about = {"held_out": kept}
    return save_bundle(place / "mine", counting_starts(spec), model, policy=place / "policy", about=about, seed=3)
