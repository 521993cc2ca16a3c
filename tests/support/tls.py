"""Authorities, certificates made by them, and a Triton whose gRPC speaks TLS."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from baton.errors import BatonError, Unreachable
from baton.local import LocalTriton
from baton.tls import Tls
from baton.triton.grpc import GrpcTriton

NAME = "triton.example"


class Authority:
    """One that signs certificates; ``file`` holds its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._made = trustme.CA()
        self.file, self.key, self.chain = folder / "ca.pem", folder / "key.pem", folder / "chain.pem"
        self._made.cert_pem.write_to_path(self.file)

    def options(self, *names: str, ended: bool = False, mutual: bool = False) -> list[str]:
        """What starts a Triton with a certificate for these names (loopback and :data:`NAME`, unless given)."""
        now = datetime.now(UTC)
        begin, end = (now - timedelta(days=9), now - timedelta(days=1)) if ended else (now, now + timedelta(days=30))
        made = self._made.issue_cert(*(names or ("127.0.0.1", NAME)), not_before=begin, not_after=end)
        made.private_key_pem.write_to_path(self.key)
        made.cert_chain_pems[0].write_to_path(self.chain)
        words = ["--grpc-use-ssl=1", f"--grpc-server-cert={self.chain}", f"--grpc-server-key={self.key}"]
        return [*words, "--grpc-use-ssl-mutual=1", f"--grpc-root-cert={self.file}"] if mutual else words


class TlsTriton(LocalTriton):
    """`ctl up` starts none that speaks TLS, so this one's start is waited for in the way of whoever asked for it."""

    tls: Tls | None = None

    def _answers(self) -> bool:
        with closing(GrpcTriton("starting", self.grpc_url, tls=self.tls)) as client:
            try:
                client.release()
            except Unreachable as error:
                # It shows a certificate that is not accepted, as the test has it.
                return error.mend is not None
            except BatonError:
                return False
            return True
