"""Media by address and by path: what was allowed, from where it was allowed, and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from tests.unit.engine import support  # noqa: F401 - makes the engine importable

from reranker_engine.inference import sources
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.fetch import fetch
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.sources import MediaPolicy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes"


@pytest.fixture
def names(monkeypatch):
    """What names lead to, instead of asking a server; each answer is used up, the last one stays."""
    table: dict[str, list[list[str]]] = {}

    def look_up(host, port, *_, **__):
        with contextlib.suppress(ValueError):
            return real(host, port, type=socket.SOCK_STREAM) if ipaddress.ip_address(host) else None
        answers = table[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def host(certificate, monkeypatch):
    """Starts a server that answers every connection with what it is given; gives its port and what it was asked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        asked: list[bytes] = []

        def start(answer):
            def serve():
                while listener.fileno() >= 0:
                    with contextlib.suppress(OSError):  # the client may leave at any moment
                        raw, _ = listener.accept()
                        with raw, context.wrap_socket(raw, server_side=True) as connection:
                            asked.append(connection.recv(65536))
                            if callable(answer):
                                answer(connection)
                            else:
                                connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return listener.getsockname()[1], asked

        yield start


def get(port, names, *, max_bytes=1000, seconds=10.0, path="/a b.png?x=1", more=("127.0.0.1",)):
    names.setdefault("pictures.example", [["127.0.0.1"]])
    return fetch(f"https://pictures.example:{port}{path}", (f"pictures.example:{port}", *more), max_bytes, seconds)


def test_an_allowed_address_is_fetched_under_its_own_name(host, names):
    port, asked = host(OK)
    assert get(port, names) == b"bytes"
    assert asked[0].startswith(b"GET /a%20b.png?x=1 HTTP/1.1\r\n")
    assert f"Host: pictures.example:{port}\r\n".encode() in asked[0]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/\r\n\r\n",
            "answered 302; redirects are not followed",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the host answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nbytes", "ends early|IncompleteRead"),
        (b"no http at all", "cannot be fetched"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "more than 100 headers"),
        (b"", "cannot be fetched"),
    ],
)
def test_answers_that_are_none(host, names, answer, cause):
    port, asked = host(answer)
    with pytest.raises(InputError, match=cause):
        get(port, names)
    assert len(asked) == 1


def test_no_more_is_read_than_is_allowed(host, names):
    port, _ = host(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10**6)
    assert len(get(port, names, max_bytes=1000)) == 1001
    policy = MediaPolicy(allowed_hosts=(f"pictures.example:{port}", "127.0.0.1"), max_bytes=1000)
    with pytest.raises(InputError, match="is more than 1000 bytes long; at most 1000 are allowed"):
        MediaReader(policy).read(f"https://pictures.example:{port}/")


def test_a_server_that_sends_a_byte_now_and_then_is_left(host, names):
    over = threading.Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not over.wait(0.05):
            connection.sendall(b"x")

    port, _ = host(drip)
    with pytest.raises(InputError, match=r"cannot be fetched \(not within 0 s\)"):  # all of it would take 5,000 s
        get(port, names, seconds=0.4)
    over.set()


def test_a_name_that_leads_to_an_address_inside_is_refused(host, names):
    port, asked = host(OK)
    for answer in (["127.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "127.0.0.1"]):
        names["pictures.example"] = [answer]
        with pytest.raises(InputError, match="whose address is not public; the operator must allow the address"):
            get(port, names, more=())
    assert asked == []


def test_a_name_that_changes_between_check_and_use_changes_nothing(host, names):
    """The second answer, which a second look-up would get, leads elsewhere."""
    port, _ = host(OK)
    names["pictures.example"] = [["127.0.0.1"], ["169.254.169.254"]]
    assert get(port, names) == b"bytes"
    assert len(names["pictures.example"]) == 1


def test_a_host_must_prove_its_name(host, names, certificate, monkeypatch):
    port, asked = host(OK)
    names["other.example"] = [["127.0.0.1"]]
    with pytest.raises(InputError, match="certificate"):
        fetch(f"https://other.example:{port}/", (f"other.example:{port}", "127.0.0.1"), 1000, 10.0)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match="certificate"):
        get(port, names)
    assert asked == []


@pytest.mark.parametrize("reference", [
    "https://pictures.example:8443/", "http://pictures.example/", "https://pictures.example./", "https://pictures.example@127.0.0.1/",
    "https://127.0.0.1\\@pictures.example/", "https://pictures.example%2eevil/", "ftp://pictures.example/",
])  # fmt: skip
def test_only_the_host_and_the_port_that_were_allowed(reference, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(InputError, match=r"does not allow|a user name or a password"):
        fetch(reference, ("pictures.example",), 1000, 10.0)


def test_user_names_are_refused(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(InputError, match="a user name or a password"):
        fetch("https://user:secret@pictures.example/", ("pictures.example",), 1000, 10.0)


def test_what_is_outside_is_read_once_and_counted_together(monkeypatch):
    times: list[float] = []

    def slow(reference, allowed, limit, seconds):
        times.append(seconds)
        return b"x" * 600

    monkeypatch.setattr(sources, "fetch", slow)
    reader = MediaReader(MediaPolicy(allowed_hosts=("a.example",), max_bytes=1000))
    for _ in range(3):
        assert len(reader.read("https://a.example/1")) == 600
    assert len(times) == 1
    with pytest.raises(InputError, match="longer than 1000 bytes together"):
        reader.read("https://a.example/2")
    assert times[1] < times[0] == sources.DOWNLOAD_S


class TestPaths:
    def read(self, root, reference, **limits):
        return MediaReader(MediaPolicy(allowed_roots=(root,), **limits)).read(str(reference))

    def test_what_is_no_plain_file_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "fifo.png")
        (tmp_path / "folder.png").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket.png"))
            for name, cause in (("fifo", "not a plain file"), ("folder", "not a plain file|read"), ("socket", "read")):
                with pytest.raises(InputError, match=cause):
                    self.read(tmp_path, tmp_path / f"{name}.png")

    @pytest.mark.parametrize(
        "reference", ["/dev/zero", "/proc/self/environ", "/etc/passwd", "/etc/no-such-file", "/root/x"]
    )
    def test_the_error_does_not_tell_what_exists_elsewhere(self, tmp_path, reference):
        (tmp_path / "link").symlink_to(reference)
        for way in (reference, f"{tmp_path}/../../../../../../..{reference}", tmp_path / "link", f"file://{reference}"):
            with pytest.raises(
                InputError, match=r"^refers to a local file outside the folders that this server allows$"
            ):
                self.read(tmp_path, way)

    def test_devices_are_refused_also_where_their_folder_is_allowed(self):
        with pytest.raises(InputError, match="not a plain file"):
            self.read(Path("/dev"), "/dev/zero")

    def test_a_huge_file_is_refused_unread(self, tmp_path):
        with (tmp_path / "huge.png").open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(InputError, match="is 1099511627776 bytes long; at most 268435456 are allowed"):
            self.read(tmp_path, tmp_path / "huge.png")

    @pytest.mark.parametrize("reference", ["a\0b", "\ud800", "x" * 5000, "a/" * 3000])
    def test_names_that_cannot_be(self, tmp_path, reference):
        with pytest.raises(InputError, match=r"cannot be read|outside"):
            self.read(tmp_path, f"{tmp_path}/{reference}")
