"""The client's side: whether the alias answers, as a client of it is answered, over gRPC and over HTTP.

Needs nothing of Baton's own: an address and tritonclient. The requests have ids that are never counted as live traffic.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.request import getproxies, proxy_bypass

import numpy as np

from baton.client import DIRECT, Reranker
from baton.config import DEFAULT_SERVICE, Config, ServiceConfig
from baton.doctor.finding import Finding, bad, failed, good, limited, skipped
from baton.doctor.models import template
from baton.domain import Signature
from baton.errors import BatonError, KeyRefused, UsageError
from baton.probe import NoRequest, ask_builtin
from baton.tls import Tls, Trust
from baton.triton import pbtxt
from baton.triton.grpc import MAX_MESSAGE_BYTES, NO_MODEL, GrpcTriton
from baton.triton.port import own_id

TIMEOUT_S = 30.0
LARGE = 8 * 2**20
"""Bytes of a message that a picture easily needs. gRPC's own default is 4 MiB, that of nginx for HTTP 1 MiB."""
QUERY, DOCUMENTS = "a red apple", ("a green pear", "a round red apple", "the price of oil rose on Monday")


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients ask."""

    protocol: Literal["grpc", "http"]
    place: str
    """``host:port``."""
    tls: Tls | None = None
    """How gRPC is encrypted to it."""

    @classmethod
    def of(cls, text: str) -> Address:
        """From ``host:port`` (gRPC), ``grpc://host:port`` or ``http://host:port``; raises ``UsageError``."""
        with contextlib.closing(Reranker(text)) as client:
            if client.protocol == "gateway":
                raise UsageError(f"{text} is a gateway.", mend="Name a Triton; a gateway's /readyz tells of it.")
            return cls(client.protocol, client.address)

    @property
    def name(self) -> str:
        return "gRPC" if self.protocol == "grpc" else "HTTP"


def addresses(config: Config) -> Iterator[Address]:
    """Those of the configured servers."""
    for one in config.servers:
        yield Address("grpc", one.grpc, one.encryption)
        if one.http:
            yield Address("http", one.http)


def findings(asked: Sequence[Address], services: Sequence[ServiceConfig]) -> Iterator[Finding]:
    """All that is found, one address after the other."""
    yield proxies(asked)
    for address in asked:
        several = len(asked) > len({one.protocol for one in asked})
        for found in _at(address, services):
            name = f"{found.name} at {address.place}" if several else found.name
            yield Finding(name, found.verdict, found.message, found.mend)
    if not any(one.protocol == "http" for one in asked):
        yield skipped("HTTP", "no HTTP address is known; `ctl doctor http://HOST:8000` asks it")


def proxies(asked: Sequence[Address]) -> Finding:
    """The gRPC of tritonclient sends through a proxy what is meant for a server nearby, in clear text."""
    name = "proxy"
    known = {scheme: proxy for scheme, proxy in getproxies().items() if scheme in {"http", "https", "grpc"}}
    hosts = sorted({one.place.rpartition(":")[0].strip("[]") for one in asked})
    through = [host for host in hosts if not proxy_bypass(host)]
    if not known or not through:
        return good(name, "none stands between")
    proxy = os.environ.get("https_proxy") or next(iter(known.values()))
    proxy = re.sub(r"^(\w+://)?.*@", r"\1", proxy)  # without its user and password
    message = (
        f"{proxy} is set as a proxy: clients that do not "
        f"leave it out ask {', '.join(through)} through it, and may get no answer. Baton's own client leaves it out"
    )
    return limited(name, message, f"export no_proxy={','.join(through)}")


def _at(address: Address, services: Sequence[ServiceConfig]) -> Iterator[Finding]:
    if address.protocol == "http":
        for service in services:
            yield _answer(address, service, f"HTTP {service.name}", None, None)
        yield _large(address)
        return
    with contextlib.closing(GrpcTriton("of clients", address.place, tls=address.tls)) as triton:
        try:
            release = triton.release()
        except KeyRefused:
            release = "of a release that it tells only with a key"
        except BatonError as error:
            yield bad("gRPC", error.message, error.mend or "Is it running, on this port, and open to this machine?")
            return
        yield good("gRPC", f"Triton {release} answers at {address.place}")
        for service in services:
            yield from _service(address, service, triton)
    yield _large(address)


def _service(address: Address, service: ServiceConfig, triton: GrpcTriton) -> Iterator[Finding]:
    name = service.name
    signature = None
    try:
        signature, leads = triton.signature(name, None), triton.step(name)
    except KeyRefused:
        yield skipped(f"{name} alias", "only who has the admin key may see where it leads")
    except BatonError as error:
        message = f"{address.place} serves no {name}: {error.message.rstrip('.')}. Clients that ask it get an error"
        yield bad(
            f"{name} alias",
            message,
            "`ctl status` on the control plane's machine says what serves; --service NAME asks another.",
        )
        return
    else:
        if leads is None:
            message = (
                f"{name} is a model itself and no alias: requests get what was loaded last, before a gate has judged it"
            )
            yield limited(
                f"{name} alias",
                message,
                "Ask the alias (--service NAME), or put it under Baton: `ctl adopt HOST:PORT`.",
            )
        else:
            way = "live traffic is split just now" if leads == service.splitter else f"leads to {leads}"
            yield good(f"{name} alias", way)
        yield from _tensors(service, signature)
    yield _answer(address, service, f"gRPC {name}", triton, signature)


def _tensors(service: ServiceConfig, signature: Signature) -> Iterator[Finding]:
    """What clients can't send and can't get, measured by the template of the service's kind."""
    own = template(service)
    if own is None:
        return
    wanted = pbtxt.parse(own.read_text("utf-8"), own)
    has = {one.name for one in (*signature.inputs, *signature.outputs)}
    lacking = [one.name for one in (*wanted.input, *wanted.output) if one.name not in has]
    name = f"{service.name} tensors"
    if lacking:
        message = f"it does not know {', '.join(lacking)}: a request that names one is refused, all others are answered"
        mend = "`ctl doctor --role control` on the control plane's machine names the lines that config.pbtxt lacks."
        yield limited(name, message, mend)
    else:
        yield good(name, ", ".join(sorted(has)))


def _answer(
    address: Address, service: ServiceConfig, name: str, triton: GrpcTriton | None, signature: Signature | None
) -> Finding:
    """One small request. ``triton`` and ``signature`` serve a service without a probe."""
    if service.probe != DEFAULT_SERVICE.probe:
        return _built_in(name, service, triton, signature)
    began = time.monotonic()
    try:
        url = f"{address.protocol}://{address.place}"
        with Reranker(url, model=service.name, timeout_s=TIMEOUT_S, tls=address.tls) as client:
            ranking = client.rank(QUERY, DOCUMENTS, request_id=own_id("doctor-"))
    except BatonError as error:
        return failed(name, error, "`ctl status` and Triton's log say more.")
    took = time.monotonic() - began
    scores = ranking.scores
    shown = ", ".join(f"{score:.3g}" for score in scores)
    told = f"version {ranking.version} scored {shown}"
    if not all(0 <= score <= 1 for score in scores):  # nor is a NaN
        return bad(
            name,
            f"{told}: no scores from 0 to 1, so clients rank by nonsense",
            "`ctl rollback`, and look at that version.",
        )
    if len(set(scores)) == 1:
        message = f"{told}: the same for three very different documents, so clients can't rank by it"
        return bad(name, message, "`ctl rollback`, and look at that version.")
    return good(name, f"{told} in {took * 1000:.0f} ms")


def _built_in(name: str, service: ServiceConfig, triton: GrpcTriton | None, signature: Signature | None) -> Finding:
    if triton is None or signature is None:
        return skipped(name, f"{service.name} is no reranker, and is asked over gRPC alone")

    def infer(_: int, inputs: Any, timeout_s: float) -> Any:
        return triton.infer(service.name, None, inputs, timeout_s, own_id("doctor-"))

    try:
        wrong = ask_builtin(infer, 0, signature, cancelled=lambda: False, timeout_s=TIMEOUT_S)
    except NoRequest as error:
        return skipped(name, error.message)
    except BatonError as error:
        return failed(name, error, "`ctl status` and Triton's log say more.")
    return (
        good(name, "it answers as it declares")
        if wrong is None
        else bad(name, wrong, "`ctl rollback`, and look at it.")
    )


def _large(address: Address) -> Finding:
    """Whether what stands between lets a large message through. No model is asked: one that is not there says no.

    Triton says the same "no" to a small and to a large one; what else refuses the large one says it in other words.
    """
    name, size = f"{address.name} message size", f"{LARGE >> 20} MiB"
    small, large = (_refusal(address, count) for count in (1, LARGE))
    if not small[0]:
        return skipped(name, f"{address.place} can't be asked: {small[1]}")
    if small[0] == large[0]:
        return good(name, f"{size} pass")
    message = f"a message of {size} does not pass: {large[1]}. Clients that send pictures or many documents fail so"
    mend = "Raise the limit of what stands between: nginx client_max_body_size 64m (HTTP) and no limit for gRPC."
    return limited(name, message, mend)


def _refusal(address: Address, count: int) -> tuple[str, str]:
    """How a message of that size to no model is refused: the status, empty where none came, and words."""
    data = np.zeros((1, count), dtype=np.uint8)
    try:
        if address.protocol == "grpc":
            _send_grpc(address, data)
        else:
            _send_http(address.place, data)
    except Exception as error:  # noqa: BLE001 - tritonclient's HTTP lets through what the socket and gevent raise
        status = getattr(error, "status", lambda: None)()
        return str(status or ""), " ".join(str(error).split())[:200]
    return "answered", "an answer"


def _send_grpc(address: Address, data: Any) -> None:
    import tritonclient.grpc as triton

    credentials, named = Trust(address.tls).credentials()
    options = [DIRECT, ("grpc.max_send_message_length", MAX_MESSAGE_BYTES), *named]
    with triton.InferenceServerClient(address.place, creds=credentials, channel_args=options) as client:
        client.infer(NO_MODEL, [_input(triton, data)], request_id=own_id("doctor-"), client_timeout=TIMEOUT_S)


def _send_http(place: str, data: Any) -> None:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(place, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)
    try:
        client.infer(NO_MODEL, [_input(triton, data)], request_id=own_id("doctor-"))
    finally:
        client.close()


def _input(triton: Any, data: Any) -> Any:
    made = triton.InferInput("data", list(data.shape), "UINT8")
    made.set_data_from_numpy(data)
    return made
