"""Keys, and limits on bytes, documents, concurrency and time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.gateway import FRUIT, InMemory
from tests.unit.gateway.test_versions import keys_file

from baton.errors import ConfigError
from baton.gateway import keys
from baton.gateway.keys import Keys
from baton.testing.gateway import FakeConnection


@pytest.mark.parametrize("header", ["Bearer key-web", "bearer  key-web ", "key-web"])
def test_a_key_in_every_way_it_is_sent(tmp_path: Path, header: str) -> None:
    with InMemory(keys_file=keys_file(tmp_path, web="")) as gateway:
        assert gateway.post("/v1/rerank", json=FRUIT, headers={"authorization": header}).status_code == 200
        assert gateway.get("/v1/models", headers={"authorization": header}).status_code == 200
        assert gateway.sample("baton_gateway_requests_total", key="web", status="200") == 1


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer key-other", "Basic key-web", "k\xe9y"])
def test_without_a_good_key_nothing_is_answered(tmp_path: Path, header: str | None) -> None:
    fake = FakeConnection()
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with InMemory(fake, keys_file=keys_file(tmp_path, web="")) as gateway:
        answers = [gateway.post("/v1/rerank", json=FRUIT, headers=headers), gateway.get("/v1/models", headers=headers)]
        assert gateway.get("/healthz").status_code == 200
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "other" not in answer.text
    assert fake.asked == []


@pytest.mark.parametrize("header", ["", "Bearer anything"])
def test_without_a_file_every_header_is_good(header: str) -> None:
    with InMemory() as gateway:
        assert gateway.post("/v1/rerank", json=FRUIT, headers={"authorization": header}).status_code == 200


def test_keys_are_read_again_and_a_broken_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    path = keys_file(tmp_path, one="")
    known = Keys(path)
    assert known.caller("key-one").name == "one"
    keys_file(tmp_path, two="versions = true\nrequests = 3")
    os.utime(path, ns=(1, 1))
    two = known.caller("Bearer key-two")
    assert (two.name, two.versions, two.requests) == ("two", True, 3)
    path.write_text("broken")
    assert known.caller("key-two").name == "two"
    path.unlink()
    assert known.caller("key-two").name == "two"


def test_the_lines_of_the_page_make_a_key(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "rerank-url.md").read_text()
    [lines] = re.findall(r"```sh\n( *KEY=.*?)```", page, re.DOTALL)
    words = ["sh", "-c", textwrap.dedent(lines) + '\nprintf %s "$KEY"']
    key = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert len(key) == 64
    assert Keys(tmp_path / "keys.toml").caller(f"Bearer {key}").name == "webui"


DIGEST = hashlib.sha256(b"k").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys = 1",
        "[keys]",
        f'more = 1\n[keys.a]\nsha256 = "{DIGEST}"',
        '[keys.a]\nsha256 = "short"',
        f'[keys.a]\nsha256 = "{DIGEST}"\nadmin = true',
        f'[keys.a]\nsha256 = "{DIGEST}"\nversions = 1',
        f'[keys.a]\nsha256 = "{DIGEST}"\nrequests = 0',
        f'[keys.a]\nsha256 = "{DIGEST}"\n[keys.b]\nsha256 = "{DIGEST}"',
    ],
)
def test_a_file_of_keys_that_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Keys(path)
    assert str(path) in str(raised.value)
    assert DIGEST not in str(raised.value)


def test_too_many_documents_are_one_413_and_no_request() -> None:
    fake = FakeConnection()
    with InMemory(fake, max_documents=2) as gateway:
        answer = gateway.post("/v1/rerank", json=FRUIT)
    assert (answer.status_code, fake.asked) == (413, [])
    assert "at most 2" in answer.json()["detail"]


def test_a_large_body_is_cut_while_it_is_read() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b"x" * 1000

    async def run(gateway: InMemory) -> httpx.Response:
        transport = httpx.ASGITransport(gateway.gateway.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            return await client.post("/v1/rerank", content=endless())

    gateway = InMemory(max_bytes=10_000)
    answer = asyncio.run(run(gateway))
    assert answer.status_code == 413
    assert sent <= 11_000
    assert gateway.gateway.room.taken == 0
    with gateway:
        declared = gateway.post("/v1/rerank", content=b"x" * 10_001)
    assert declared.status_code == 413


def test_a_slow_body_is_408() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(InMemory(read_timeout=0.05).gateway.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            return await client.post("/v1/rerank", content=slow())

    assert asyncio.run(run()).status_code == 408


def concurrently(gateway: InMemory, count: int, refused: int, **headers: str) -> list[int]:
    """The statuses of so many requests, of which none is answered before so many were refused."""

    async def run() -> list[int]:
        [fake] = gateway.servers
        fake.gate = asyncio.Event()
        transport = httpx.ASGITransport(gateway.gateway.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as client:
            left = {asyncio.ensure_future(client.post("/v1/rerank", json=FRUIT)) for _ in range(count)}
            done: set[Any] = set()
            while len(done) < refused:
                more, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            fake.gate.set()
            answers = [one.result() for one in done] + list(await asyncio.gather(*left))
        assert all("retry-after" in one.headers for one in answers if one.status_code == 429)
        return sorted(one.status_code for one in answers)

    return asyncio.run(run())


def test_overload_is_429_at_once() -> None:
    gateway = InMemory(max_requests=2)
    assert concurrently(gateway, 5, 3) == [200, 200, 429, 429, 429]
    assert concurrently(gateway, 2, 0) == [200, 200], "the places are free again"


@pytest.mark.parametrize(("more", "most"), [("requests = 1", 1), ("", 3)])
def test_each_key_has_its_own_share(tmp_path: Path, more: str, most: int) -> None:
    gateway = InMemory(keys_file=keys_file(tmp_path, web=more), key_requests=3)
    found = concurrently(gateway, 4, 4 - most, authorization="Bearer key-web")
    assert found == [200] * most + [429] * (4 - most)


def test_bodies_together_have_a_limit() -> None:
    gateway = InMemory(max_bytes_in_flight=len(json.dumps(FRUIT)) + 20)
    assert concurrently(gateway, 3, 2) == [200, 429, 429]
    assert gateway.gateway.room.taken == 0


def test_the_engine_is_told_how_long_the_client_waits() -> None:
    fake = FakeConnection()
    with InMemory(fake, timeout=600.0) as gateway:
        assert gateway.post("/v1/rerank", json=FRUIT).status_code == 200
    assert 0 < fake.asked[0].timeout_s <= 600


def test_a_client_that_goes_away_ends_its_call() -> None:
    fake = FakeConnection(answer_s=60.0)
    gateway = InMemory(fake)
    sent: list[Any] = []

    async def run() -> None:
        went = asyncio.Event()
        messages = [{"type": "http.request", "body": httpx.Request("POST", "http://g", json=FRUIT).content}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await went.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": [], "query_string": b""}
        task = asyncio.ensure_future(gateway.gateway.app()(scope, receive, send))
        while not fake.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the fake has nothing to await
        went.set()
        await task

    asyncio.run(run())
    assert fake.cancelled == 1
    assert gateway.gateway.room.taken == 0
    labels = {"route": "/v1/rerank", "model_version": "", "status": "499"}
    assert gateway.sample("baton_gateway_request_seconds_count", **labels) == 1


def test_no_cors_unless_configured() -> None:
    ask = {"origin": "https://chat.example.com", "access-control-request-method": "POST"}
    with InMemory() as gateway:
        assert "access-control-allow-origin" not in gateway.options("/v1/rerank", headers=ask).headers
    with InMemory(origins=("https://chat.example.com",)) as gateway:
        answer = gateway.options("/v1/rerank", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
        other = gateway.options("/v1/rerank", headers=ask | {"origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in other.headers
