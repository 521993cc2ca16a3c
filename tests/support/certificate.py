"""Certificates for tests, made by the ``openssl`` program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    """One that signed itself, so that it is its own authority."""

    certificate: Path
    key: Path


def make_certificate(folder: Path, *, name: str = "IP:127.0.0.1", passphrase: str | None = None) -> Certificate:
    """A certificate for ``name`` in a new ``folder``. Skips the test where ``openssl`` is not installed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program")
    folder.mkdir()
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=baton"]
    words += ["-addext", f"subjectAltName={name}", "-out", str(made.certificate), "-keyout", str(made.key)]
    words += ["-nodes"] if passphrase is None else ["-passout", f"pass:{passphrase}"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return made


def write_secret(path: Path, text: str) -> Path:
    """A file that only its owner may open."""
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return path
