"""``[gateway]``: the HTTP gateway of ``ctl gateway`` and ``ctl up``. Its defaults hold where the table is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from baton import allowed
from baton.errors import ConfigError
from baton.tls import is_loopback

_header = allowed.matching(r"[A-Za-z0-9-]{1,64}", 'the name of a header, such as "X-Session-Id"')


def _setting(check: Callable[[Any], Any], default: Any) -> Any:
    return field(default=default, metadata={"check": check})


def _origins(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
        raise allowed.Invalid('a list of origins such as ["https://chat.example.com"]')
    return tuple(value)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """``[gateway]``: where it listens, who may ask, and how much."""

    listen: str = _setting(allowed.address, "127.0.0.1:8003")
    metrics: str | Literal[False] = _setting(allowed.address_or_false, "127.0.0.1:9466")
    certificate: Path | None = _setting(allowed.path, None)
    key: Path | None = _setting(allowed.path, None)
    keys_file: Path | None = _setting(allowed.path, None)
    timeout: float = _setting(allowed.positive_duration, 30.0)
    read_timeout: float = _setting(allowed.positive_duration, 30.0)
    header_timeout: float = _setting(allowed.positive_duration, 10.0)
    stop_delay: float = _setting(allowed.duration, 1.0)
    ready_within: float = _setting(allowed.positive_duration, 10.0)
    max_bytes: int = _setting(allowed.count, 64 * 2**20)
    max_bytes_in_flight: int = _setting(allowed.count, 512 * 2**20)
    max_documents: int = _setting(allowed.count, 4096)
    max_requests: int = _setting(allowed.count, 256)
    key_requests: int = _setting(allowed.count, 64)
    retry_share: float = _setting(allowed.fraction, 0.10)
    sticky_header: str | None = _setting(_header, None)
    sticky_key_file: Path | None = _setting(allowed.path, None)
    origins: tuple[str, ...] = _setting(_origins, ())


def check_gateway(gateway: GatewayConfig, where: str) -> None:
    """Raises ``ConfigError`` where settings do not fit together."""
    if (gateway.certificate is None) != (gateway.key is None):
        missing = "key" if gateway.key is None else "certificate"
        raise ConfigError(f"{where}: gateway: {missing} is missing.", mend="TLS needs certificate and key.")


def check_exposed(config: GatewayConfig, *, insecure: bool) -> None:
    """Raises ``ConfigError`` where other machines could ask in clear text, or without a key."""
    missing = [
        what
        for what, there in (
            ("TLS (certificate and key)", config.certificate),
            ("API keys (keys_file)", config.keys_file),
        )
        if there is None
    ]
    if missing and not insecure and not is_loopback(config.listen):
        raise ConfigError(
            f"The gateway would listen on {config.listen} for other machines without {' and '.join(missing)}.",
            mend="Configure them, or say --insecure where a proxy in front does both.",
        )
