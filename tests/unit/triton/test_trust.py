"""Baton's own handshake, which tells why gRPC has no connection, trusts whom gRPC trusts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from baton.tls import Tls, Trust

PATIENCE_S = 60.0


@contextmanager
def serving(certificate: trustme.LeafCert) -> Iterator[str]:
    """A gRPC server with that certificate."""
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    server = grpc.server(ThreadPoolExecutor(1))
    shown = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", shown)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("named", ["root", "the one between", "its own certificate"])
def test_an_authority_need_not_be_a_root(tmp_path: Path, named: str) -> None:
    root = trustme.CA()
    between = root.create_child_ca()
    own = between.issue_cert("127.0.0.1")
    file = tmp_path / "ca.pem"
    trusted = {
        "root": root.cert_pem,
        "the one between": between.cert_pem,
        "its own certificate": own.cert_chain_pems[0],
    }
    trusted[named].write_to_path(file)
    trust = Trust(Tls(file))
    with serving(own) as address:
        credentials, _ = trust.credentials()
        with closing(grpc.secure_channel(address, credentials)) as channel:
            grpc.channel_ready_future(channel).result(PATIENCE_S)
        assert trust.trouble(address) is None
        assert trust.certificate_ends(address)


def test_a_stranger_is_still_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().create_child_ca().cert_pem.write_to_path(file)
    with serving(trustme.CA().issue_cert("127.0.0.1")) as address:
        found = Trust(Tls(file)).trouble(address)
    assert found is not None
    assert "an authority that is not in" in found.cause
