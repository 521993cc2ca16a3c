"""Secrets lie in files of their owner's, and are never told."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from baton import secret
from baton.config import ApiConfig, parse
from baton.errors import ConfigError


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        text = secret.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret.read(path, "key") == text
    assert len(text) >= 43
    assert secret.create(path) != text
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_one_that_others_could_read_is_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "key", b"old", 0o644)
    secret.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_that_lies_in_wait_is_not_followed(tmp_path: Path) -> None:
    victim = write(tmp_path / "victim", b"untouched")
    (tmp_path / ".key.new").symlink_to(victim)
    secret.create(tmp_path / "key")
    assert victim.read_bytes() == b"untouched"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666])
def test_one_that_others_may_open(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "key", b"planted-secret", mode)
    with pytest.raises(ConfigError, match=rf"the token, may be opened by others .*mode {mode:04o}") as caught:
        secret.read(path, "token")
    assert "planted-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"PLANTED two", b"PLANTED\nlines", b"PLANTED\xff", b"p\0", b"p" * 5000]
)
def test_one_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "key", content)
    with pytest.raises(ConfigError, match="one line of printable ASCII") as caught:
        secret.read(path, "token")
    assert "PLANTED" not in str(caught.value).replace(str(path), "")


def test_what_root_hands_over_by_a_group_is_taken() -> None:
    """As Kubernetes mounts a secret for a process that is not root's."""
    assert not secret.open_to_others(0o100440, owner=0, user=1000)
    assert secret.open_to_others(0o100444, owner=0, user=1000)
    assert secret.open_to_others(0o100460, owner=0, user=1000)
    assert secret.open_to_others(0o100440, owner=0, user=0)
    assert secret.open_to_others(0o100440, owner=1000, user=1000)


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the token, can't be read: No such file"):
        secret.read(tmp_path / "key", "token")
    with pytest.raises(ConfigError, match="can't be written"):
        secret.create(tmp_path / "nowhere" / "key")


WHOLE = {"listen": "0.0.0.0:9465", "certificate": "cert.pem", "key": "key.pem", "token_file": "token"}


@pytest.mark.parametrize("missing", WHOLE)
def test_no_network_without_tls_and_a_token(missing: str) -> None:
    given = {k: v for k, v in WHOLE.items() if k != missing}
    with pytest.raises(ConfigError, match=rf"baton.toml: control.api: {missing} missing: no network without TLS"):
        parse({"control": {"api": given}}, "baton.toml", Path("/etc/baton"))


def test_all_of_it_or_nothing() -> None:
    assert parse({}, "baton.toml", Path()).control.api == ApiConfig()
    api = parse({"control": {"api": WHOLE}}, "baton.toml", Path("/etc/baton")).control.api
    assert api == ApiConfig(
        "0.0.0.0:9465", Path("/etc/baton/cert.pem"), Path("/etc/baton/key.pem"), Path("/etc/baton/token")
    )
