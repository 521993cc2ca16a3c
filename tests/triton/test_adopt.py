"""``ctl adopt`` and ``ctl eject`` on a Triton that was started by hand, under load over gRPC and HTTP."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import tritonclient.grpc
import tritonclient.http
from harness.control_plane import CTL
from harness.waiting import until
from tests.support.tls import Authority, TlsTriton
from tests.support.toy import engine_config, make_checkpoint
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS, running_triton, tensors

from baton import adopt as core
from baton.config import load
from baton.errors import TritonError
from baton.local import LocalTriton
from baton.tls import Tls
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles

pytestmark = pytest.mark.triton
NAME, ENGINE = "search", "search_engine"
BACKENDS = (TOY_BACKENDS, OUR_BACKENDS)
CONFIG = "# written by hand\r\n" + engine_config(NAME, [3, 7]).replace("\n", "\r\n")


class Clients:
    """Four over gRPC and two over HTTP, which ask by the model's name all the while."""

    def __init__(self, server: LocalTriton) -> None:
        self.server, self.done, self.failed, self.versions = server, 0, list[str](), set[str]()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        kinds = [(tritonclient.grpc, self.server.grpc_url)] * 4 + [(tritonclient.http, self.server.http_url)] * 2
        self._threads = [threading.Thread(target=self._ask, args=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()
        self.some_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def some_more(self, count: int = 200) -> None:
        """Wait until so many more requests were answered or failed."""
        begin = self.done + len(self.failed)
        until(lambda: self.done + len(self.failed) >= begin + count, f"{count} more answers")

    def _ask(self, protocol: Any, address: str) -> None:
        client = protocol.InferenceServerClient(address)
        while not self._stop.is_set():
            try:
                answer = client.infer(NAME, tensors(protocol, {"text": "red"}, [{"text": "a red"}, {"text": "b"}]))
                version = answer.get_response()
                version = version["model_version"] if isinstance(version, dict) else version.model_version
            except Exception as error:  # noqa: BLE001 - each is a failed request, and asserted
                with self._lock:
                    self.failed.append(str(error))
            else:
                with self._lock:
                    self.done += 1
                    self.versions.add(version)
        client.close()


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def ctl(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CTL, *words], cwd=home, capture_output=True, text=True, check=False)


@contextmanager
def by_hand(
    home: Path, *, backends: tuple[Path, ...] = (TOY_BACKENDS, OUR_BACKENDS), **options: Any
) -> Iterator[LocalTriton]:
    """A Triton that serves versions 3 and 7 of ``search`` by itself."""
    for version in (3, 7):
        make_checkpoint(home / "model_repository" / NAME / str(version), seed=version)
    (home / "model_repository" / NAME / "config.pbtxt").write_bytes(CONFIG.encode())
    loaded = {} if "extra_args" in options else {"load": [NAME]}
    with running_triton(home / "triton", home / "model_repository", backends=backends, **loaded, **options) as server:
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, LocalTriton]]:
    home = tmp_path_factory.mktemp("by_hand")
    with by_hand(home) as server:
        yield home, server


@pytest.fixture
def running(shared_server: tuple[Path, LocalTriton]) -> Iterator[tuple[Path, LocalTriton]]:
    """The server of the module, on which nothing is adopted: also after a test that failed half way."""
    home, server = shared_server
    yield home, server
    if list((home / ".baton" / core.FOLDER).glob("*.json")):
        (home / "baton.toml").write_text(f'[[servers]]\nname = "a"\ngrpc = "{server.grpc_url}"\n')
        assert ctl(home, "eject").returncode == 0
    (home / "baton.toml").unlink(missing_ok=True)


def test_there_and_back_under_load_costs_no_request_and_no_byte(running: tuple[Path, LocalTriton]) -> None:
    home, server = running
    before = tree(home / "model_repository")
    with Clients(server) as clients:
        done = ctl(home, "adopt", server.grpc_url)
        assert done.returncode == 0, done.stderr
        assert "0 failed" in done.stderr
        assert '-name: "search"' in done.stdout, "the page shows the difference"
        clients.some_more()
        after = tree(home / "model_repository")
        assert {name for name in after if name.startswith(f"{NAME}/")} == {f"{NAME}/config.pbtxt", f"{NAME}/7"}
        moved = {name.replace(NAME, ENGINE, 1): mark for name, mark in before.items() if name != f"{NAME}/config.pbtxt"}
        assert moved.items() <= after.items()
        engine = (home / "model_repository" / ENGINE / "config.pbtxt").read_bytes().decode()
        assert engine == CONFIG.replace(f'"{NAME}"', f'"{ENGINE}"').replace("[ 3, 7 ]", "[ 7 ]")
        back = ctl(home, "--output", "json", "eject")
        assert back.returncode == 0, back.stderr
        told = json.loads(back.stdout)
        assert (told["failed"], told["unchanged"]) == (0, True)
        assert told["asked"] > 0
        clients.some_more()
    assert clients.failed == []
    assert clients.versions == {"7"}
    assert tree(home / "model_repository") == before


def test_the_control_plane_takes_over_and_eject_keeps_what_serves_then(running: tuple[Path, LocalTriton]) -> None:
    home, server = running
    assert ctl(home, "adopt", server.grpc_url).returncode == 0
    written = (home / "baton.toml").read_text()
    usual = '# metrics = "127.0.0.1:9464"'
    assert usual in written
    (home / "baton.toml").write_text(written.replace(usual, 'metrics = "127.0.0.1:0"'))  # others use that port
    made = make_checkpoint(home / "next", seed=8)
    log = (home / "serve.log").open("w")
    plane = subprocess.Popen([CTL, "serve"], cwd=home, stdout=log, stderr=log)
    try:
        until(lambda: ctl(home, "status").returncode == 0, "an answer of the control plane")
        assert ctl(home, "eject").returncode == 3, "not while a control plane runs"
        pushed = ctl(home, "push", str(made), "--no-wait")
        assert pushed.returncode == 0, pushed.stderr
        status: dict[str, Any] = {}

        def waits() -> bool:
            nonlocal status
            status = json.loads(ctl(home, "--output", "json", "status").stdout)["services"][0]
            return bool(status["phase"] == "waiting")

        until(waits, "version 8 to wait for a person")
        assert (status["stable"], status["candidate"]) == (7, 8), "without a golden set it waits for a person"
        assert ctl(home, "abort").returncode == 0
    finally:
        plane.send_signal(signal.SIGTERM)
        plane.wait()
        log.close()
    back = ctl(home, "--output", "json", "eject")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["unchanged"]
    assert (home / "model_repository" / NAME / "8" / "config.json").is_file(), "a version that came since is kept"


STEPS = (
    ("before", "_link"),
    ("after", "_link"),  # of the first version's folder
    ("after", "_try_splitter"),
    ("after", "_same_answers"),  # the engine is loaded
    ("after", "set_alias"),  # the alias is on disk, and not in Triton
    ("before", "_leads"),  # and in Triton
    ("after", "_move_out"),
)
KILLED = """
import os, signal, sys
from pathlib import Path
from baton import adopt
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles
address, home, step, when = sys.argv[1:]
owner = ServiceFiles if step == "set_alias" else adopt
real = getattr(owner, step)
def last(*args, **more):
    if when == "after":
        real(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, last)
server = GrpcTriton(address, address)
found = adopt.inspect(server, Path(home, "model_repository"), Path(home, ".baton"))
adopt.adopt(server, found, Path(home, ".baton"), print)
"""


@pytest.mark.parametrize(("when", "step"), STEPS)
def test_killed_at_each_step_the_model_serves_and_eject_puts_it_back(
    running: tuple[Path, LocalTriton], when: str, step: str
) -> None:
    home, server = running
    before = tree(home / "model_repository")
    with Clients(server) as clients:
        words = [sys.executable, "-c", KILLED, server.grpc_url, str(home), step, when]
        assert subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
        clients.some_more(50)
        again = ctl(home, "adopt", server.grpc_url)
        assert again.returncode == 3
        (home / "baton.toml").write_text(f'[[servers]]\nname = "a"\ngrpc = "{server.grpc_url}"\n')
        back = ctl(home, "eject")
        assert back.returncode == 0, back.stderr
        clients.some_more(50)
    assert clients.failed == []
    assert tree(home / "model_repository") == before


def test_an_eject_that_was_interrupted_late_loses_no_version_to_a_load_that_fails(
    running: tuple[Path, LocalTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has its folders back, and the engine's are half removed: there is one copy of each version."""
    home, server = running
    before = tree(home / "model_repository")
    assert ctl(home, "adopt", server.grpc_url).returncode == 0
    state = home / ".baton"  # the repository is found from any folder

    def removing(folder: Path, **_: object) -> None:
        real(folder / "7")
        raise KeyboardInterrupt

    real, triton = shutil.rmtree, GrpcTriton("by hand", server.grpc_url)
    with closing(triton), Clients(server) as clients:
        with monkeypatch.context() as late:
            late.setattr(shutil, "rmtree", removing)
            with pytest.raises(KeyboardInterrupt):
                core.eject(triton, state, None, print)
        assert not (home / "model_repository" / ENGINE / "7").exists()
        with monkeypatch.context() as failing:
            failing.setattr(triton, "load", refusing)
            with pytest.raises(TritonError, match="planted"):
                core.eject(triton, state, None, print)
        mine = {name: mark for name, mark in before.items() if name.startswith(f"{NAME}/")}
        assert mine.items() <= tree(home / "model_repository").items()
        clients.some_more()
        assert core.eject(triton, state, None, print)[2]
        clients.some_more(50)
    assert clients.failed == []
    assert tree(home / "model_repository") == before


def refusing(*_: object) -> None:
    raise TritonError("a planted failure")


def test_what_lies_beside_the_versions_is_kept(running: tuple[Path, LocalTriton]) -> None:
    """Folders of digits go where the versions go, and come back; all else stays. Baton tidies none of it away."""
    home, server = running
    model, engine = (home / "model_repository" / name for name in (NAME, ENGINE))
    moved, stay = {"007", "0", "99999999999"}, {"+5", " 6", "٣", "²", "notes"}
    for name in moved | stay:
        (model / name).mkdir()
        (model / name / "only").write_text(name)
    (model / "5").write_text("a file")
    (model / "88").symlink_to("7")
    before = tree(model)
    try:
        done = ctl(home, "adopt", server.grpc_url)
        assert done.returncode == 0, done.stderr
        assert {name for name in moved if (engine / name / "only").read_text() == name} == moved
        assert (engine / "88" / "config.json").is_file()
        files = ServiceFiles(home / "model_repository", NAME, ENGINE)
        files.tidy_alias()
        assert {entry.name for entry in model.iterdir()} == {*stay, "5", "7", "config.pbtxt"}
        assert ctl(home, "eject").returncode == 0
        assert tree(model) == before
        assert (model / "88").is_symlink()
    finally:
        for entry in model.iterdir():
            if entry.name in moved | stay:
                shutil.rmtree(entry)
        for name in ("5", "88"):
            (model / name).unlink(missing_ok=True)


@pytest.mark.parametrize("number", ["0", "2147483648"])
def test_a_version_whose_number_baton_does_not_take(tmp_path: Path, number: str) -> None:
    model = tmp_path / "model_repository" / NAME
    make_checkpoint(model / number)
    (model / "config.pbtxt").write_text(engine_config(NAME, [int(number)]))
    with running_triton(tmp_path / "triton", model.parent, backends=BACKENDS, load=[NAME]) as server:
        before = tree(tmp_path / "model_repository")
        done = ctl(tmp_path, "adopt", server.grpc_url)
        assert done.returncode == 3, done.stderr
        assert f"serves version {number}, and Baton takes versions from 1" in " ".join(done.stdout.split())
        (model / ("9" * 25)).mkdir()
        assert "Triton ends when it reads this number" in ctl(tmp_path, "adopt", server.grpc_url).stdout
        (model / ("9" * 25)).rmdir()
        (model / "9").symlink_to("nowhere")
        assert "a link to what is not there" in ctl(tmp_path, "adopt", server.grpc_url).stdout
        (model / "9").unlink()
        assert tree(tmp_path / "model_repository") == before


def test_an_engine_that_gives_other_scores_is_taken_out_again(
    running: tuple[Path, LocalTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, server = running
    before = tree(home / "model_repository")
    triton = GrpcTriton("by hand", server.grpc_url)
    found = core.inspect(triton, home / "model_repository", home / ".baton")
    monkeypatch.setattr(core, "SAME", -1.0)
    with Clients(server) as clients, pytest.raises(TritonError, match="answers"):
        core.adopt(triton, found, home / ".baton", print)
    assert clients.failed == []
    assert tree(home / "model_repository") == before
    assert ENGINE not in {name for name, versions in triton.index().items() if versions}
    triton.close()


def test_what_is_missing_is_said_before_anything_is_changed(tmp_path: Path) -> None:
    with by_hand(tmp_path, backends=(TOY_BACKENDS,)) as server:
        before = tree(tmp_path / "model_repository")
        done = ctl(tmp_path, "adopt", server.grpc_url)
        assert done.returncode in {1, 5}, done.stderr
        assert "splitter" in done.stderr
        assert "backend directory" in done.stderr
        assert tree(tmp_path / "model_repository") == before
        other = make_checkpoint(tmp_path / "other" / NAME / "9")
        (other.parent / "config.pbtxt").write_text(engine_config(NAME, [9]))
        wrong = ctl(tmp_path, "adopt", server.grpc_url, "--repository", str(tmp_path / "other"))
        assert wrong.returncode == 3
        assert "Is --repository the right one?" in wrong.stdout
        assert tree(tmp_path / "model_repository") == before


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_triton_that_takes_no_load_calls(tmp_path: Path, mode: str) -> None:
    with by_hand(tmp_path, extra_args=[f"--model-control-mode={mode}"]) as server:
        done = ctl(tmp_path, "--output", "json", "adopt", server.grpc_url)
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert "--model-control-mode=explicit --load-model=search" in told["obstacles"][0]
    assert not told["applied"]


@pytest.mark.parametrize(("release", "stops"), [("2.51.0", False), ("2.74.0", False), ("2.48.0", True)])
def test_only_a_release_that_is_known_not_to_work_is_refused(
    running: tuple[Path, LocalTriton], monkeypatch: pytest.MonkeyPatch, release: str, *, stops: bool
) -> None:
    home, server = running
    with closing(GrpcTriton("by hand", server.grpc_url)) as triton:
        monkeypatch.setattr(triton, "release", lambda: release)
        found = core.inspect(triton, home / "model_repository", home / ".baton")
    assert [text for text in found.obstacles if release in text] == list(found.obstacles)
    assert bool(found.obstacles) is stops
    assert any(release in text for text in found.notes) is (release == "2.74.0")


def test_one_with_an_admin_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("planted-4711\n")
    key.chmod(0o600)
    with by_hand(tmp_path, admin_key="planted-4711") as server:
        without = ctl(tmp_path, "adopt", server.grpc_url)
        assert without.returncode != 0
        assert "admin key" in without.stderr
        done = ctl(tmp_path, "adopt", server.grpc_url, "--admin-key-file", str(key))
        assert done.returncode == 0, done.stderr
        assert "planted-4711" not in done.stdout + done.stderr + (tmp_path / "baton.toml").read_text()
        assert ctl(tmp_path, "eject").returncode == 0


def test_one_whose_grpc_is_encrypted(tmp_path: Path) -> None:
    """The way there and back, and a control plane that goes the same way."""
    authority = Authority(tmp_path / "tls")
    kind = type("Triton", (TlsTriton,), {"tls": Tls(authority.file)})
    with by_hand(tmp_path, kind=kind, load=[NAME], extra_args=authority.options()) as server:
        plain = ctl(tmp_path, "adopt", server.grpc_url)
        assert plain.returncode == 5
        assert "speaks TLS" in plain.stderr
        stranger = Authority(tmp_path / "stranger").file
        wrong = ctl(tmp_path, "adopt", server.grpc_url, "--tls", "--ca-file", str(stranger))
        assert wrong.returncode == 5
        assert wrong.stderr.startswith("Error: Triton, server"), "gRPC writes nothing of its own before"
        half = ctl(tmp_path, "adopt", server.grpc_url, "--ca-file", str(authority.file))
        assert half.returncode == 2
        assert "Add tls" in half.stderr
        words = ("adopt", server.grpc_url, "--tls", "--ca-file", "tls/ca.pem")
        done = ctl(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert "0 failed" in done.stderr
        (written,) = load(tmp_path / "baton.toml").servers
        assert written.encryption == Tls(authority.file)
        back = ctl(tmp_path, "eject")
        assert back.returncode == 0, back.stderr
        # The file is there now, and has that server; without TLS it would be another.
        assert ctl(tmp_path, *words, "--dry-run").returncode == 0
        file = tmp_path / "baton.toml"
        file.write_text(file.read_text().replace("tls = true\n", "").replace("ca_file", "# ca_file"))
        other = ctl(tmp_path, *words)
        assert other.returncode == 3
        assert "encrypted. Add [[servers]]" in " ".join(other.stderr.split())
