"""The Triton servers as the control plane reaches them: release, mode, who may load, metrics, the same repository.

Each is asked over gRPC and changes nothing: the one unload call names a model that is not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from baton import secret
from baton.config import Config, ServerConfig
from baton.doctor.finding import Finding, Setup, bad, failed, good, limited, skipped
from baton.errors import BatonError, KeyRefused, Unreachable
from baton.tls import Trust, is_loopback
from baton.triton.config_file import CONFIG
from baton.triton.grpc import GrpcTriton
from baton.triton.releases import Known, known, said

SOON = timedelta(days=14)
_RENEW = "Give Triton a new certificate, and start it again: it reads its certificate only then."
_ADDRESS = "Correct `grpc` in [[servers]]: the port of gRPC (8001), not that of HTTP; a firewall may stand between."
_LOG = "Triton's log says more."
_RESTRICT = (
    "Start it with --grpc-restricted-protocol=model-repository,shared-memory,logging,trace:admin-key=KEY and the same "
    "after --http-restricted-api=, and name a file with KEY in admin_key_file."
)


def reached(setup: Setup, key_file: Path) -> Iterator[Finding]:
    """All of the configured servers, in turn. ``key_file``: where the key of `ctl up`'s Triton lies."""
    for server in setup.config.servers:
        yield from look(server, setup, key_file)


def answers(server: ServerConfig) -> bool:
    """Whether a Triton answers there, whatever it lets this machine ask."""
    try:
        with _opened(server, None) as triton:
            _release(triton)
    except BatonError:
        return False
    return True


def look(server: ServerConfig, setup: Setup, key_file: Path) -> Iterator[Finding]:
    """One server; nothing more where it does not answer."""
    name = f"server {server.name}"
    try:
        with _opened(server, None) as triton:
            release = _release(triton)
    except Unreachable as error:
        if setup.starts and not setup.runs:
            yield skipped(name, f"nothing answers at {server.grpc} yet; `ctl up` starts a Triton there")
        else:
            message = f"{error.message} Clients that ask it get no answer, and no rollout starts without it"
            yield bad(name, message, error.mend or f"Start it. {_ADDRESS}")
        return
    except BatonError as error:
        yield failed(name, error, _ADDRESS)
        return
    yield good(name, f"answers at {server.grpc}")
    yield from way(server)
    if release:
        yield judge_release(f"release of {server.name}", release)
    key, found = access(server, key_file)
    yield found
    if found.verdict == "fail":
        yield skipped(f"mode of {server.name}", "only who has the key may ask")
        return
    with _opened(server, key) as triton:
        yield _mode(server, setup.config, triton)
        yield _repository(server, setup.config, triton)
    yield from _metrics(server)


@contextlib.contextmanager
def _opened(server: ServerConfig, key: str | None) -> Iterator[GrpcTriton]:
    metrics = server.metrics or None
    with contextlib.closing(
        GrpcTriton(server.name, server.grpc, metrics=metrics, admin_key=key, tls=server.encryption)
    ) as triton:
        yield triton


def _release(triton: GrpcTriton) -> str:
    """Empty where only who has the key may ask."""
    try:
        return triton.release()
    except KeyRefused:
        return ""


def judge_release(name: str, release: str) -> Finding:
    """What is known of a release of Triton, such as ``2.51.0``."""
    how, message = known(release), said(release).rstrip(".")
    if how is Known.RUN:
        return good(name, message)
    if how is Known.REFUSED:
        return bad(name, message, "Use one that docs/reference/triton-releases.md lists.")
    return limited(name, message, "Try a rollout and a `ctl rollback` on a test server before you rely on it.")


def way(server: ServerConfig) -> Iterator[Finding]:
    """How calls travel to a server that answers; nothing where that is in plain text on this machine."""
    name = f"way to {server.name}"
    if server.tls:
        with contextlib.suppress(OSError):
            ends = Trust(server.encryption).certificate_ends(server.grpc)
            message = f"encrypted; the certificate of {server.grpc} ends on {ends:%Y-%m-%d}"
            soon = ends - datetime.now(UTC) < SOON
            yield limited(name, message, _RENEW) if soon else good(name, message)
    elif server.admin_key_file is not None and not is_loopback(server.grpc):
        message = f"the admin key goes to {server.grpc} in clear text: whoever sees that network can load models"
        yield limited(name, message, "docs/how-to/encrypt-triton.md says how to encrypt it.")


def access(server: ServerConfig, key_file: Path) -> tuple[str | None, Finding]:
    """The key that is needed, and who may load and unload models there: everybody, or Baton alone.

    A server without a key in the configuration is also tried with the key of `ctl up`.
    """
    name = f"access to {server.name}"
    try:
        with _opened(server, None) as triton:
            triton.index()
    except KeyRefused as error:
        refusal = error
    except BatonError as error:
        return None, failed(name, error, _LOG)
    else:
        return None, limited(name, f"{server.grpc} lets anybody load and unload models", _RESTRICT)
    file = server.admin_key_file or key_file
    try:
        if server.admin_key_file is None and not os.access(file, os.R_OK):
            raise refusal
        key = secret.read(file, f"admin_key_file of server {server.name}")
        with _opened(server, key) as triton:
            triton.index()
    except BatonError as error:
        return None, failed(name, error, _LOG)
    return key, good(name, f"only with the key in {file}")


def _mode(server: ServerConfig, config: Config, triton: GrpcTriton) -> Finding:
    name = f"mode of {server.name}"
    try:
        explicit = triton.explicit()
    except BatonError as error:
        return failed(name, error, _LOG)
    if explicit:
        return good(name, "explicit: it loads what Baton asks for")
    models = " ".join(f"--load-model={one.name} --load-model={one.engine}" for one in config.services)
    message = "it takes no load calls: no version can be rolled out or turned back on it"
    return bad(name, message, f"Start it again with --model-control-mode=explicit {models}")


def _repository(server: ServerConfig, config: Config, triton: GrpcTriton) -> Finding:
    """Whether it serves from the folder that Baton writes to, as far as names tell."""
    name = f"models of {server.name}"
    written = [one for one in config.services if (config.repository / one.engine / CONFIG).is_file()]
    if not written:
        return skipped(name, f"no engine is in {config.repository} yet")
    try:
        index = triton.index()
    except BatonError as error:
        return failed(name, error, _LOG)
    if lacking := [one.engine for one in written if one.engine not in index]:
        message = f"it has no {', '.join(lacking)}, which {config.repository} has: it serves from another folder"
        return bad(name, message, f"Give {config.repository} and its --model-repository the same content: one volume.")
    return good(name, f"it has what {config.repository} has: {', '.join(one.engine for one in written)}")


def _metrics(server: ServerConfig) -> Iterator[Finding]:
    if not server.metrics:
        return
    name = f"metrics of {server.name}"
    try:
        with _opened(server, None) as triton:
            triton.heartbeats()
    except BatonError as error:
        message = f"{error.message} Baton then can't tell a busy version from one that hangs"
        yield limited(name, message, f"Correct `metrics` of {server.name} in [[servers]], or set it to false.")
    else:
        yield good(name, f"read at {server.metrics}")
