"""Which version answered, who may ask for one, and what keeps a user at one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificate import write_secret
from tests.support.gateway import FRUIT, InMemory

from baton.errors import ConfigError
from baton.gateway.app import Service
from baton.testing.gateway import FakeConnection

TWO = {"reranker": Service("reranker", "qwen3_vl_reranker"), "other": Service("other")}


def keys_file(folder: Path, **keys: str) -> Path:
    """``name="more settings"``; the key of a name is ``key-NAME``."""
    rows = [
        f'[keys.{name}]\nsha256 = "{hashlib.sha256(f"key-{name}".encode()).hexdigest()}"\n{more}\n'
        for name, more in keys.items()
    ]
    path = folder / "keys.toml"
    path.write_text("".join(rows))
    return path


def test_the_header_and_meta_say_who_answered() -> None:
    with InMemory(FakeConnection(stable=7, versions=(7,))) as gateway:
        for path in ("/v1/rerank", "/rerank"):
            answer = gateway.post(path, json=FRUIT)
            assert (answer.headers["x-model-version"], answer.json()["meta"]["model_version"]) == ("7", 7)


@pytest.mark.parametrize("way", [{"model": "reranker@2"}, {"model": "unknown@2"}, {"model": "@2"}, {}])
def test_a_caller_who_may_asks_for_a_version(tmp_path: Path, way: dict[str, str]) -> None:
    fake = FakeConnection(versions=(1, 2))
    headers = {"authorization": "Bearer key-ci"} | ({} if way else {"x-model-version": "2"})
    with InMemory(fake, keys_file=keys_file(tmp_path, ci="versions = true")) as gateway:
        answer = gateway.post("/v1/rerank", json=FRUIT | way, headers=headers)
    assert answer.headers["x-model-version"] == "2"
    assert (fake.asked[0].model, fake.asked[0].version) == ("qwen3_vl_reranker", "2")


def test_others_may_not(tmp_path: Path) -> None:
    with InMemory(keys_file=keys_file(tmp_path, web="")) as gateway:
        answer = gateway.post(
            "/v1/rerank", json=FRUIT, headers={"authorization": "Bearer key-web", "x-model-version": "1"}
        )
    assert answer.status_code == 403
    with InMemory() as gateway:
        assert gateway.post("/v1/rerank", json=FRUIT | {"model": "reranker@1"}).status_code == 403


@pytest.mark.parametrize(
    ("version", "status"), [("9", 404), ("x", 422), ("-1", 422), ("٢", 422), ("9" * 30, 422), ("1.5", 422)]
)
def test_a_version_that_is_none(tmp_path: Path, version: str, status: int) -> None:
    with InMemory(keys_file=keys_file(tmp_path, ci="versions = true")) as gateway:
        body = FRUIT | {"model": f"reranker@{version}"}
        answer = gateway.post("/v1/rerank", json=body, headers={"authorization": "key-ci"})
        both = gateway.post(
            "/v1/rerank",
            json=FRUIT | {"model": "reranker@1"},
            headers={"authorization": "key-ci", "x-model-version": "2"},
        )
    assert (answer.status_code, both.status_code) == (status, 422)


@pytest.mark.parametrize(
    ("services", "model", "status"),
    [
        (1, None, 200),
        (1, "", 200),
        (1, "rerank-v3.5", 200),
        (1, "someone/rerank@main", 200),
        (2, "reranker", 200),
        (2, "rerank-v3.5", 404),
        (2, None, 404),
    ],
)
def test_which_service_a_name_means(services: int, model: str | None, status: int) -> None:
    chosen = dict(list(TWO.items())[:services])
    with InMemory(services=chosen) as gateway:
        answer = gateway.post("/v1/rerank", json=FRUIT | {"model": model})
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["model"] == "reranker"
    else:
        assert "reranker, other" in answer.json()["message"]


def ids(fake: FakeConnection) -> list[str]:
    return [one.request_id for one in fake.asked]


def test_requests_of_a_user_have_one_id_that_tells_nothing(tmp_path: Path) -> None:
    fake = FakeConnection()
    with InMemory(fake, sticky_header="X-Session-Id", keys_file=keys_file(tmp_path, a="", b="")) as gateway:

        def ask(key: str, *, header: str | None = None, user: str | None = None) -> None:
            headers = {"authorization": f"Bearer key-{key}"} | ({"x-session-id": header} if header else {})
            assert gateway.post("/v1/rerank", json=FRUIT | {"user": user}, headers=headers).status_code == 200

        for _ in range(2):
            ask("a", user="baton-1")
            ask("b", user="baton-1")
            ask("a", header="baton-1", user="somebody else")
            ask("a")
    first, second = ids(fake)[:4], ids(fake)[4:]
    assert first[:3] == second[:3]
    assert first[0] == first[2], "the header stands for the user"
    assert first[0] != first[1], "another key's user is another one"
    assert first[3] != second[3], "without a user each request is its own"
    assert all(not one.startswith("baton-") and "baton-1" not in one for one in first)


def test_gateways_with_the_same_key_agree_and_others_do_not(tmp_path: Path) -> None:
    secret, other = write_secret(tmp_path / "secret", "one"), write_secret(tmp_path / "other", "two")
    found = []
    for more in ({}, {}, {"sticky_key_file": secret}, {"sticky_key_file": secret}, {"sticky_key_file": other}):
        fake = FakeConnection()
        settings: dict[str, Any] = more
        with InMemory(fake, **settings) as gateway:
            gateway.post("/v1/rerank", json=FRUIT | {"user": "u"})
        found += ids(fake)
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len(set(found)) == 3


def test_a_secret_that_others_may_open_is_not_used(tmp_path: Path) -> None:
    secret = write_secret(tmp_path / "secret", "one")
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="sticky_key_file"):
        InMemory(sticky_key_file=secret)


def test_a_probe_has_an_id_of_batons_own() -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        assert gateway.get("/readyz").status_code == 200
    assert ids(fake)[0].startswith("baton-")
