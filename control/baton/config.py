"""``baton.toml``: read at start, checked as a whole. Precedence: flag, environment (``BATON_*``), file, default.

``docs/reference/configuration.md`` has every key. No default of a setting stands anywhere else in the code.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from baton import allowed
from baton.config_gateway import GatewayConfig, check_gateway
from baton.domain import Step
from baton.errors import ConfigError
from baton.tls import Tls


def _setting(check: Callable[[Any], Any], default: Any = MISSING) -> Any:
    return field(default=default, metadata={"check": check})


def _section(shape: type[Any]) -> Any:
    return field(default_factory=shape, metadata={"table": shape})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``[[servers]]``: one Triton server. All of them share the one repository."""

    name: str = _setting(allowed.name)
    grpc: str = _setting(allowed.address)
    http: str | Literal[False] | None = _setting(allowed.address_or_false, None)
    metrics: str | Literal[False] | None = _setting(allowed.address_or_false, None)
    admin_key_file: Path | None = _setting(allowed.path, None)
    tls: bool = _setting(allowed.flag, default=False)
    ca_file: Path | None = _setting(allowed.path, None)
    server_name: str | None = _setting(allowed.host, None)

    @property
    def encryption(self) -> Tls | None:
        return Tls(self.ca_file, self.server_name) if self.tls else None


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """``[services.rollout]``: how a new version comes to serve."""

    promotion: str = _setting(allowed.one_of("automatic", "manual"), "automatic")
    on_newer: str = _setting(allowed.one_of("queue", "supersede"), "queue")
    keep_previous: float = _setting(allowed.duration, 600.0)
    settle: float = _setting(allowed.duration, 2.0)
    cut_after: float = _setting(allowed.duration, 15.0)
    stuck_after: float = _setting(allowed.duration, 1800.0)
    load_timeout: float = _setting(allowed.duration, 900.0)
    drain_timeout: float = _setting(allowed.duration, 120.0)
    keep_versions: int | None = _setting(allowed.whole(0), None)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
        raise allowed.Invalid('a list of tensor names such as ["query", "documents"]')
    return tuple(value)


def _steps(value: Any) -> tuple[Step, ...]:
    """Steps in rising order of weight; the last step, 100 %, may be left out."""
    forms = '{ weight = 5, hold = "30s" }, { weight = 50, over = "90s" } or { pause = true }'
    if not isinstance(value, list | tuple):
        raise allowed.Invalid(f"a list of steps such as {forms}")
    steps: list[Step] = []
    weight = 0.0
    for number, one in enumerate(value):
        keys = set(one) if isinstance(one, Mapping) else set()
        if keys == {"pause"} and one["pause"] is True:
            steps.append(Step(pause=True))
            continue
        last = number == len(value) - 1
        if keys == {"weight"} and one["weight"] == allowed.ALL and last:
            continue
        if keys not in ({"weight", "hold"}, {"weight", "over"}):
            raise allowed.Invalid(f"in step {number + 1}: {forms}; the last may be {{ weight = 100 }}")
        try:
            asked, seconds = allowed.percent(one["weight"]), allowed.duration(one.get("hold", one.get("over")))
        except allowed.Invalid as error:
            raise allowed.Invalid(f"in step {number + 1}: {error}") from None
        if not weight <= asked < allowed.ALL or asked == 0:
            raise allowed.Invalid(
                f"in step {number + 1}: a weight above 0, below 100 and no lower than the step before it"
            )
        weight = asked
        steps.append(Step(weight, hold=seconds) if "hold" in keys else Step(weight, over=seconds))
    return tuple(steps)


DEFAULT_STEPS = (Step(5.0, hold=30.0), Step(50.0, over=90.0))


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """``[services.traffic]``: how live traffic comes to a version that passed its gates."""

    steps: tuple[Step, ...] = _setting(_steps, DEFAULT_STEPS)
    shadow_share: float = _setting(allowed.percent, 25.0)
    shadow_for: float = _setting(allowed.duration, 30.0)
    interval: float = _setting(allowed.positive_duration, 5.0)
    lease: float = _setting(allowed.positive_duration, 15.0)
    on_lapse: str = _setting(allowed.one_of("resume", "rollback"), "resume")
    deadline: float = _setting(allowed.positive_duration, 10.0)
    compare: str = _setting(allowed.name, "scores")
    kinds: tuple[str, ...] = _setting(_names, ("query", "documents"))
    contents: bool = _setting(allowed.flag, default=False)
    on_no_traffic: str = _setting(allowed.one_of("probe", "hold"), "probe")
    no_traffic_after: float = _setting(allowed.positive_duration, 30.0)


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """``[services.live]``: the limits of the gate ``live``, which judges the candidate by live traffic."""

    min_requests: int = _setting(allowed.count, 20)
    min_pairs: int = _setting(allowed.count, 20)
    window: float = _setting(allowed.positive_duration, 60.0)
    max_failures: int = _setting(allowed.count, 5)
    max_failures_in_row: int = _setting(allowed.count, 3)
    failure_rate: float = _setting(allowed.fraction, 0.01)
    latency_limit: float = _setting(allowed.above(1), 1.5)
    noise: float = _setting(allowed.fraction, 0.02)
    drift_limit: float = _setting(allowed.fraction, 0.35)
    top1_agreement: float = _setting(allowed.fraction, 0.4)
    top1_margin: float = _setting(allowed.fraction, 0.1)
    tau: float = _setting(allowed.fraction, 0.1)
    threshold: float | None = _setting(allowed.fraction, None)
    crossing_limit: float = _setting(allowed.fraction, 0.25)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """``[services.gates]``: the limits of the gates."""

    allow_unjudged: bool = _setting(allowed.flag, default=False)
    capacity_margin: float = _setting(allowed.fraction, 0.10)
    memory_factor: float = _setting(allowed.above(0), 1.2)
    available_memory: int | None = _setting(allowed.count, None)
    output_tolerance: float = _setting(allowed.above(0), 0.001)
    ndcg_margin: float = _setting(allowed.fraction, 0.01)
    output_noise: float = _setting(allowed.fraction, 0.0015)
    precision: str = _setting(allowed.one_of("auto", "fp32", "half"), "auto")
    invariance_limit: float | None = _setting(allowed.above(0), None)
    latency_limit: float = _setting(allowed.above(0), 1.15)
    latency_min_samples: int = _setting(allowed.count, 200)
    latency_max_samples: int = _setting(allowed.count, 2000)
    latency_documents: int = _setting(allowed.count, 4)
    latency_budget: float = _setting(allowed.duration, 120.0)
    warmup_requests: int = _setting(allowed.count, 16)
    warmup_limit: float = _setting(allowed.above(0), 1.5)
    request_timeout: float = _setting(allowed.duration, 30.0)
    hold_retry: float = _setting(allowed.duration, 15.0)
    hold_attempts: int = _setting(allowed.count, 5)
    memory_limit: float = _setting(allowed.above(0), 0.05)
    memory_window: float = _setting(allowed.positive_duration, 600.0)


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """``[services.health]``: how a version that serves is asked whether it answers. Needs a golden set."""

    every: float = _setting(allowed.positive_duration, 5.0)
    timeout: float = _setting(allowed.positive_duration, 5.0)
    failures: int = _setting(allowed.count, 2)


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """``[[services]]``: one alias and the engine behind it."""

    name: str = _setting(allowed.name)
    engine: str = _setting(allowed.name)
    probe: str | None = _setting(allowed.name, None)
    golden: Path | None = _setting(allowed.path, None)
    architecture: str | None = _setting(allowed.text, None)
    rollout: RolloutConfig = _section(RolloutConfig)
    traffic: TrafficConfig = _section(TrafficConfig)
    live: LiveConfig = _section(LiveConfig)
    gates: GateConfig = _section(GateConfig)
    health: HealthConfig = _section(HealthConfig)

    @property
    def splitter(self) -> str:
        """The model that stands behind the alias while traffic is split."""
        return f"{self.name}_splitter"


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """``[control.api]``: the API for other machines, beside the socket. All of it, or nothing."""

    listen: str | None = _setting(allowed.address, None)
    certificate: Path | None = _setting(allowed.path, None)
    key: Path | None = _setting(allowed.path, None)
    token_file: Path | None = _setting(allowed.path, None)


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """``[control]``: the control plane itself."""

    watch: Literal["auto", "inotify", "poll"] = _setting(allowed.one_of("auto", "inotify", "poll"), "auto")
    rescan: float = _setting(allowed.duration, 5.0)
    metrics: str | None = _setting(allowed.address, "127.0.0.1:9464")
    second: Literal["exit", "stand_by"] = _setting(allowed.one_of("exit", "stand_by"), "exit")
    keep_history: float = _setting(allowed.age, 7_776_000.0)
    keep_rollouts: int = _setting(allowed.count, 1_000)
    api: ApiConfig = _section(ApiConfig)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole of ``baton.toml``."""

    repository: Path = _setting(allowed.path, Path("model_repository"))
    state: Path = _setting(allowed.path, Path(".baton"))
    control: ControlConfig = _section(ControlConfig)
    servers: tuple[ServerConfig, ...] = field(default=(), metadata={"list": ServerConfig})
    services: tuple[ServiceConfig, ...] = field(default=(), metadata={"list": ServiceConfig})
    gateway: GatewayConfig | None = field(default=None, metadata={"table": GatewayConfig})

    def service(self, name: str | None) -> ServiceConfig:
        """The service of that name; without a name, the only one. Raises ``ConfigError`` where there is no such one."""
        known = ", ".join(s.name for s in self.services)
        if name is None and len(self.services) == 1:
            return self.services[0]
        if name is None:
            raise ConfigError(f"There are several services ({known}).", mend="Name one with --service.")
        if named := [s for s in self.services if s.name == name]:
            return named[0]
        raise ConfigError(f"There is no service {name!r}.", mend=f"The configuration names: {known}.")


DEFAULT_SERVICE = ServiceConfig(name="reranker", engine="qwen3_vl_reranker", probe="reranker")
DEFAULT_SERVER = ServerConfig(name="local", grpc="127.0.0.1:8001", http="127.0.0.1:8000", metrics="127.0.0.1:8002")


def load(path: Path | None) -> Config:
    """Read and check a configuration file; None gives the defaults.

    Raises:
        ConfigError: naming file, key, value and what is allowed.
    """
    if path is None:
        return Config(servers=(DEFAULT_SERVER,), services=(DEFAULT_SERVICE,))
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.", mend="Name one with --config.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number of 5,000 digits, too
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    return parse(data, str(path), path.parent)


def parse(data: Mapping[str, Any], where: str, base: Path) -> Config:
    """Check a parsed file. ``base``: the directory that relative paths start from."""
    config: Config = _table(Config, data, where, "", base)
    services, servers = config.services or (DEFAULT_SERVICE,), config.servers or (DEFAULT_SERVER,)
    config = replace(config, services=services, servers=servers)
    for what, names in (
        ("servers", [s.name for s in config.servers]),
        ("services", [n for s in config.services for n in (s.name, s.engine, s.splitter)]),
    ):
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{where}: {what}: the name {twice[0]!r} is given twice.", mend="Give each another name.")
    api = config.control.api
    missing = [f.name for f in fields(api) if getattr(api, f.name) is None]
    if 0 < len(missing) < len(fields(api)):
        raise ConfigError(
            f"{where}: control.api: {' and '.join(missing)} missing: no network without TLS and a token.",
            mend="Give listen, certificate, key and token_file; or none of them, and there is the socket alone.",
        )
    for server in config.servers:
        if not server.tls and (server.ca_file is not None or server.server_name is not None):
            what = f"{where}: servers: {server.name}: ca_file or server_name is given without tls."
            raise ConfigError(what, mend="Add tls = true; without it nothing is encrypted.")
    if config.gateway is not None:
        check_gateway(config.gateway, where)
    for service in config.services:
        if service.probe is None and service.golden is not None:
            raise ConfigError(
                f"{where}: services: {service.name}: golden is given without a probe.", mend='Add probe = "reranker".'
            )
    return config


def _table(shape: type[Any], data: Any, where: str, prefix: str, base: Path) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.')}: expected a table.")
    known = {f.name: f for f in fields(shape)}
    if unknown := [key for key in data if key not in known]:
        mend = f"Allowed here: {', '.join(sorted(known))}."
        raise ConfigError(f"{where}: {prefix}{unknown[0]}: no such key.", mend=mend)
    values: dict[str, Any] = {}
    for name, one in known.items():
        if name not in data:
            if one.default is MISSING and one.default_factory is MISSING:
                raise ConfigError(f"{where}: {prefix}{name} is missing.")
            continue
        value = data[name]
        if "table" in one.metadata:
            values[name] = _table(one.metadata["table"], value, where, f"{prefix}{name}.", base)
        elif "list" in one.metadata:
            if not isinstance(value, list):
                raise ConfigError(f"{where}: {prefix}{name}: write it as [[{prefix}{name}]].")
            rows = [_table(one.metadata["list"], v, where, f"{prefix}{name}[{i}].", base) for i, v in enumerate(value)]
            values[name] = tuple(rows)
        else:
            try:
                checked = one.metadata["check"](value)
            except allowed.Invalid as error:
                raise ConfigError(f"{where}: {prefix}{name} = {repr(value)[:200]}: allowed is {error}.") from None
            values[name] = base / checked if isinstance(checked, Path) else checked
    return shape(**values)
