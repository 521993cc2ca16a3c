"""What a user sees when nothing good is at the other end."""

import contextlib
import socket
import threading

import pytest

from baton.client import Reranker
from baton.errors import TimedOut, TritonError, Unreachable

BOTH = pytest.mark.parametrize("protocol", ["grpc", "http"])


@BOTH
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-model.invalid:8001"])
def test_nobody_there_is_unreachable_at_once(protocol, address):
    with Reranker(address, protocol=protocol, timeout_s=600) as reranker, pytest.raises(Unreachable, match=address):
        reranker.rank("q", ["d"])


@BOTH
def test_a_server_that_says_nothing_times_out(protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        reranker = Reranker(address, protocol=protocol, timeout_s=0.5)
        with reranker, pytest.raises(TimedOut, match=r"0\.5 s"):
            reranker.rank("q", ["d"])


@contextlib.contextmanager
def answering(reply):
    """Serves ``reply`` to each HTTP request, one connection at a time; an empty one closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(65536)
                    head, _, body = request.partition(b"\r\n\r\n")
                    length = next(
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length")
                    )
                    while len(body) < length:
                        body += connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_connection_that_is_closed_without_an_answer_is_unreachable():
    with answering(b"") as address, Reranker(address, protocol="http") as reranker, pytest.raises(Unreachable):
        reranker.rank("q", ["d"])


def test_a_proxy_without_a_json_body_is_an_error_with_its_words():
    page = b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\nConnection: close\r\n\r\n<h1>no</h>"
    with (
        answering(page) as address,
        Reranker(address, protocol="http") as reranker,
        pytest.raises(TritonError, match="h1"),
    ):
        reranker.rank("q", ["d"])


def test_a_kept_connection_that_the_server_closed_is_made_anew():
    body = (
        b'{"model_name":"reranker","model_version":"1","outputs":['
        b'{"name":"scores","datatype":"FP32","shape":[1,1],"data":[0.5]},'
        b'{"name":"model_version","datatype":"INT64","shape":[1,1],"data":[4]}]}'
    )
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with answering(reply) as address, Reranker(address, protocol="http", timeout_s=5) as reranker:
        assert [reranker.rank("q", ["d"]).version for _ in range(3)] == [4, 4, 4]
