"""baton.toml is checked whole, and every key of it is documented."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton import config
from baton.config import (
    ApiConfig,
    Config,
    ControlConfig,
    GateConfig,
    LiveConfig,
    RolloutConfig,
    ServerConfig,
    ServiceConfig,
    TrafficConfig,
)
from baton.config_gateway import GatewayConfig
from baton.errors import ConfigError

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
SERVICE = {"name": "ranker", "engine": "engine"}
TABLES = {
    "Top level": Config,
    "`[control]`": ControlConfig,
    "`[control.api]`": ApiConfig,
    "`[gateway]`": GatewayConfig,
    "`[[servers]]`": ServerConfig,
    "`[[services]]`": ServiceConfig,
    "`[services.rollout]`": RolloutConfig,
    "`[services.traffic]`": TrafficConfig,
    "`[services.live]`": LiveConfig,
    "`[services.gates]`": GateConfig,
}


def parse(data: dict[str, Any]) -> Config:
    return config.parse(data, "baton.toml", Path("/etc/baton"))


def documented() -> dict[str, dict[str, str]]:
    """Key to default, by heading of the reference."""
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"^#+ ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = block.partition("\n")
        found[title.strip()] = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", body, flags=re.MULTILINE))
    return found


@pytest.mark.parametrize("title", TABLES)
def test_every_key_is_documented_and_nothing_else(title: str) -> None:
    keys = {f.name for f in fields(TABLES[title]) if "table" not in f.metadata and "list" not in f.metadata}
    assert set(documented()[title]) == keys


@pytest.mark.parametrize("title", [t for t in TABLES if t not in ("Top level", "`[[servers]]`", "`[[services]]`")])
def test_documented_defaults_are_the_defaults(title: str) -> None:
    shape = TABLES[title]
    checks = {f.name: f.metadata["check"] for f in fields(shape) if "check" in f.metadata}
    for key, text in documented()[title].items():
        if not text.startswith("`") or "[" in text:
            continue  # told in words, or a list
        written = text.strip("`")
        value = written.strip('"') if written.startswith('"') else float(written)
        default = getattr(shape(), key)
        number = isinstance(value, float) and isinstance(default, int)
        assert checks[key](int(value) if number else value) == default, key


def test_defaults_without_a_file() -> None:
    found = config.load(None)
    assert [s.name for s in found.services] == ["reranker"]
    assert found.servers[0].grpc == "127.0.0.1:8001"


def test_paths_start_from_the_file() -> None:
    found = parse({"repository": "models", "services": [{**SERVICE, "probe": "reranker", "golden": "g.jsonl"}]})
    assert found.repository == Path("/etc/baton/models")
    assert found.services[0].golden == Path("/etc/baton/g.jsonl")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"repositry": "x"}, ["repositry", "no such key", "repository"]),
        ({"services": [{"name": "a"}]}, ["services[0].engine", "missing"]),
        ({"services": {"name": "a"}}, ["[[services]]"]),
        ({"control": 3}, ["control", "table"]),
        ({"control": {"keep_history": "0d"}}, ["control.keep_history", "0d", "90d", "forever"]),
        ({"control": {"keep_rollouts": 0}}, ["control.keep_rollouts", "at least 1"]),
        ({"services": [{**SERVICE, "rollout": {"settle": "soon"}}]}, ["services[0].rollout.settle", "soon", "90s"]),
        ({"services": [{**SERVICE, "rollout": {"settle": True}}]}, ["settle", "True"]),
        ({"services": [{**SERVICE, "rollout": {"on_newer": "drop"}}]}, ["on_newer", '"queue" or "supersede"']),
        ({"services": [{**SERVICE, "gates": {"ndcg_margin": 2}}]}, ["ndcg_margin", "0 to 1"]),
        ({"services": [{**SERVICE, "gates": {"latency_limit": 0}}]}, ["latency_limit", "above 0"]),
        ({"services": [SERVICE, SERVICE]}, ["ranker", "twice"]),
        ({"services": [{"name": "same", "engine": "same"}]}, ["same", "twice"]),
        ({"services": [{**SERVICE, "name": "../up"}]}, ["name", "letters"]),
        ({"services": [{**SERVICE, "golden": "g"}]}, ["golden", "probe"]),
        ({"servers": [{"name": "a", "grpc": "8001"}]}, ["servers[0].grpc", "127.0.0.1:8001"]),
        ({"repository": ""}, ["repository", "a path"]),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(data)
    for word in ["baton.toml", *words]:
        assert word in str(error.value)
    assert error.value.exit_code == 2


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no configuration file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[services\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
        config.load(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(tmp_path / "binary.toml")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = [f.name for shape in TABLES.values() for f in fields(shape)]


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_anything_is_a_configuration_or_a_configuration_error(data: dict[str, Any]) -> None:
    try:
        told = parse(data).services
    except ConfigError as error:
        told = "baton.toml" in str(error)
    assert told


def test_a_service_is_found_by_name() -> None:
    two = parse({"services": [SERVICE, {"name": "b", "engine": "c"}]})
    assert two.service("b").engine == "c"
    with pytest.raises(ConfigError, match="ranker, b"):
        two.service(None)
    with pytest.raises(ConfigError, match="no service 'd'"):
        two.service("d")


def test_how_long_events_are_kept() -> None:
    assert parse({}).control.keep_history == 90 * 86_400.0
    for told, seconds in (("2d", 172_800.0), ("36h", 129_600.0), ("forever", float("inf"))):
        assert parse({"control": {"keep_history": told}}).control.keep_history == seconds


@pytest.mark.parametrize("more", [{"ca_file": "ca.pem"}, {"server_name": "triton.example"}])
def test_what_belongs_to_tls_is_no_tls(more: dict[str, str]) -> None:
    """Who names an authority and forgets ``tls`` would send the key in clear text."""
    server = {"name": "a", "grpc": "10.0.0.5:8001"} | more
    with pytest.raises(ConfigError, match=r"servers: a: ca_file or server_name is given without tls\. Add tls = true"):
        parse({"servers": [server]})
    (found,) = parse({"servers": [server | {"tls": True}]}).servers
    assert found.encryption is not None
    assert parse({"servers": [{"name": "a", "grpc": "10.0.0.5:8001"}]}).servers[0].encryption is None


@pytest.mark.parametrize("name", ["", "https://triton", "a b", "-x", 7])
def test_a_server_name_is_a_host_name(name: object) -> None:
    with pytest.raises(ConfigError, match="a host name such as"):
        parse({"servers": [{"name": "a", "grpc": "10.0.0.5:8001", "tls": True, "server_name": name}]})
