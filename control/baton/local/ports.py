"""The three TCP ports of a server."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from baton.errors import Refused
from baton.httpd import family
from baton.local.procfs import port_owner


@dataclass(frozen=True, slots=True)
class Ports:
    """Those of one server; 0 where it does not listen at all."""

    http: int
    grpc: int
    metrics: int


def choose_ports(host: str, *, http: int | None, grpc: int | None, metrics: int | None) -> Ports:
    """Takes the asked ports if they are free, and free ones where None or 0 is asked.

    Nothing is kept open: a free port can be taken by another process before the server opens it.

    Raises ``Refused`` naming a port that is in use and, where the system tells, by which process.
    """
    chosen: dict[str, int] = {}
    # All sockets stay open until the last one is chosen, so that no port is chosen twice.
    with contextlib.ExitStack() as open_sockets:
        for name, wanted in (("HTTP", http), ("gRPC", grpc), ("metrics", metrics)):
            if wanted and wanted in chosen.values():
                raise Refused(f"Port {wanted} is asked for twice.", mend="Choose three different ports.")
            probe = open_sockets.enter_context(open_port(host, name, wanted or 0))
            chosen[name] = probe.getsockname()[1]
    return Ports(http=chosen["HTTP"], grpc=chosen["gRPC"], metrics=chosen["metrics"])


def open_port(host: str, name: str, port: int) -> socket.socket:
    """Listens on the port, or on a free one where 0 is asked. Raises ``Refused``, with the port's ``name``."""
    probe = socket.socket(family(host), socket.SOCK_STREAM)
    # As servers do: a connection that is closing down does not keep the port from being opened.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen(1)
    except OSError as error:
        probe.close()
        if not isinstance(error, PermissionError) and is_listening(host, port):
            raise Refused(
                f"Port {port} ({name}) on {host} is in use by {port_owner(port)}.",
                mend=f"Stop that process, or choose another port with --{name.lower()}-port.",
            ) from error
        raise Refused(
            f"Port {port} ({name}) on {host} can't be opened: {error}.",
            mend=f"Choose another port with --{name.lower()}-port.",
        ) from error
    return probe


def is_listening(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    address = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound
    with socket.socket(family(host), socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0
