"""Starts and stops one local Triton server, and leaves nothing behind.

The server runs in a session of its own, so that Ctrl-C on the terminal reaches only Baton, which then decides. Its
shared memory is its own where the kernel allows that (``exec_wrapper.py``). The names of its regions have a prefix of
their own, which tells its stubs and leftovers from other servers'. Not covered: restarting a Triton that ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from baton.client import DIRECT
from baton.config import RolloutConfig
from baton.durable import make_private, open_private
from baton.errors import BatonError, Refused, TimedOut, Unreachable
from baton.local import procfs
from baton.local.argv_secret import masked, restrictions, reveal
from baton.local.assemble import assemble
from baton.local.exec_wrapper import explain, memory_for, memory_here, wrapped_command
from baton.local.find import find_triton
from baton.local.ports import Ports, choose_ports, is_listening

if TYPE_CHECKING:
    from types import TracebackType

    from baton.local.find import Installation

START_TIMEOUT = RolloutConfig().load_timeout
"""Seconds: Triton answers only after the models of ``--load-model`` are loaded."""
STOP_TIMEOUT = 40.0
"""Seconds; Triton gives requests in flight 30 s of its own after SIGTERM."""
METRICS_HOST = "127.0.0.1"
"""Triton restricts its metrics by no key, so they are for this machine alone."""
_LOOK_EVERY, _LOOK_SOON = 0.05, 0.005
_LOGGED = re.compile(rb"^[IWE]\d{4} ", re.MULTILINE)
"""How a line of Triton's own log begins; a dynamic linker's does not."""
_TAIL_LINES, _TAIL_WIDTH = 15, 400
_TAKEN = "already in use"
"""How Triton logs that another process has a port."""
_ATTEMPTS = 3
"""Starts with newly chosen ports, when another process took one between the choice and the start."""
_log = logging.getLogger(__name__)


class LocalTriton:
    """One server at a time, started from ``installation`` with the backends in ``backend_directory``.

    ``state`` is the state directory; servers of the same one can run side by side, and each start removes what
    dead ones of it left.
    """

    def __init__(self, installation: Installation, backend_directory: Path, *, state: Path) -> None:
        self.installation = installation
        self.backend_directory = backend_directory
        home = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:8]
        self._family = f"baton-{home}-"
        self._prefix = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = threading.Event()
        self._log: Path | None = None
        self._log_begin = 0
        self.ports = Ports(http=0, grpc=0, metrics=0)
        self.host = "127.0.0.1"

    @classmethod
    def prepare(cls, state: Path, backends: Sequence[Path], *, explicit: Path | None = None) -> Self:
        """Finds a server and assembles its backends under ``state``. Raises ``ConfigError``."""
        installation = find_triton(explicit)
        return cls(installation, assemble(installation, backends, state), state=state)

    def start(
        self,
        repository: Path,
        *,
        load: Sequence[str] = (),
        http: bool = True,
        metrics: bool = True,
        http_port: int | None = None,
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        host: str = "127.0.0.1",
        log_file: Path,
        extra_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
        admin_key: str | None = None,
        timeout: float = START_TIMEOUT,
    ) -> Self:
        """Starts the server in explicit mode and returns when it answers over gRPC and listens for HTTP, if at all.

        HTTP and gRPC listen on ``host``; without ``http`` and ``metrics`` no ports are opened for them. ``load`` names
        the models for ``--load-model``. A port that is None or 0 is chosen, see :attr:`ports`. The log is appended to
        ``log_file``. ``env`` is added to Baton's own environment. With ``die_with_parent`` the server also ends when
        Baton is killed. With ``admin_key`` nobody without that key may ask for what
        :data:`baton.local.argv_secret.RESTRICTED` names. ``timeout`` is in seconds, the loading of models included.

        Raises ``Refused`` (port in use, already running), ``Unreachable`` (the server exited; with the end of its
        log) or ``TimedOut``. After an error nothing of the server is left.
        """
        if self._process is not None and self.poll() is None:
            raise Refused(f"This server already runs as process {self.pid}.", mend="Stop it first.")
        procfs.sweep(self._family)
        make_private(log_file.parent)
        self._log, self.host = log_file, host
        deadline = time.monotonic() + timeout
        picked = not ((http_port or not http) and grpc_port and (metrics_port or not metrics))
        memory = memory_for(repository, self.backend_directory)
        for attempt in range(_ATTEMPTS):
            asked = {"http": http_port if http else None, "metrics": metrics_port if metrics else None}
            ports = choose_ports(host, grpc=grpc_port, **asked)
            self.ports = replace(ports, http=ports.http if http else 0, metrics=ports.metrics if metrics else 0)
            self._prefix = f"{self._family}{secrets.token_hex(4)}-"
            command = self._command(repository, load, [*restrictions(admin_key), *extra_args])
            try:
                self._launch(command, self._environment(env), admin_key, os.getpid() if die_with_parent else 0, memory)
                self._wait_until_it_answers(deadline, timeout, admin_key)
            except BaseException as error:
                self._kill()
                taken = isinstance(error, Unreachable) and _TAKEN in self.last_log_lines()
                if taken and picked and attempt + 1 < _ATTEMPTS:
                    continue
                raise
            break
        if self.pid is not None and not procfs.has_own_mounts(self.pid):
            _log.warning("%s. `ctl doctor` says what to do.", explain(*memory_here(memory)))
        return self

    def stop(self, timeout: float = STOP_TIMEOUT) -> int | None:
        """Ends the server: SIGTERM, then after ``timeout`` seconds SIGKILL to all of its session.

        Returns its exit code (negative: the signal that ended it), None when none was started. Stubs and
        shared-memory regions are gone afterwards, also when the server had already died by itself.
        """
        if self._process is None:
            return None
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self._process.pid, signal.SIGTERM)
            self._exited.wait(timeout)
        self._kill()
        return self._process.returncode

    def poll(self) -> int | None:
        """The server's exit code, None while it runs (and before it was started)."""
        if self._process is None or not self._exited.is_set():
            return None
        return self._process.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits until the server exits; its exit code, or None after ``timeout`` seconds."""
        self._exited.wait(timeout)
        return self.poll()

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return None if self._process is None or self._exited.is_set() else self._process.pid

    @property
    def grpc_url(self) -> str:
        """``host:port`` for gRPC clients on this machine."""
        return f"{self._reach}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """``host:port`` for HTTP clients on this machine; empty without HTTP."""
        return f"{self._reach}:{self.ports.http}" if self.ports.http else ""

    @property
    def metrics_url(self) -> str:
        """Empty without metrics."""
        return f"http://{METRICS_HOST}:{self.ports.metrics}/metrics" if self.ports.metrics else ""

    def stubs(self) -> list[procfs.Stub]:
        """The processes that run python models of this server."""
        return list(procfs.stubs(self._prefix)) if self._prefix else []

    def stub_pids(self, model: str, version: int) -> list[int]:
        """The processes that serve one version of a model, one for each of its instances.

        To end a load that hangs, kill one that has run for a second or more: Triton 2.51 waits for ever for one
        that dies within some 10 ms of its start, and with it wait all later load calls of the model.
        """
        return [stub.pid for stub in self.stubs() if (stub.model, stub.version) == (model, version)]

    def last_log_lines(self, count: int = _TAIL_LINES) -> str:
        """The end of what the server logged since it was started, without the frames of its tables."""
        if self._log is None or not self._log.is_file():
            return ""
        with self._log.open("rb") as log:
            log.seek(self._log_begin)
            lines = log.read().decode(errors="replace").splitlines()
        kept = [line[:_TAIL_WIDTH].rstrip() for line in lines if line.strip() and not line.startswith("+-")]
        return "\n".join(kept[-count:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _reach(self) -> str:
        if self.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
            return "127.0.0.1"
        return f"[{self.host}]" if ":" in self.host else self.host

    def _command(self, repository: Path, load: Sequence[str], extra_args: Sequence[str]) -> list[str]:
        return [
            str(self.installation.binary),
            f"--model-repository={repository.absolute()}",
            f"--backend-directory={self.backend_directory.absolute()}",
            "--model-control-mode=explicit",
            # Otherwise each version's code is started twice, once only to ask it for a configuration that the files
            # give in full: 9.8 instead of 5.9 s for an engine that imports torch. And that first process, killed,
            # leaves its version LOADING for ever (both seen on 2.51).
            "--disable-auto-complete-config",
            *(f"--load-model={name}" for name in load),
            # Strict readiness turns false during each load and drain, and stays so after a failed load.
            "--strict-readiness=false",
            f"--grpc-address={self.host}",
            f"--grpc-port={self.ports.grpc}",
            *_listener("http", self.host, self.ports.http),
            *_listener("metrics", METRICS_HOST, self.ports.metrics),
            "--metrics-config=summary_latencies=true",
            *([] if has_gpu() else ["--allow-gpu-metrics=false"]),
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            *extra_args,
        ]

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        """Baton's environment, with libraries for the server and the running Python for its stubs.

        A stub embeds Python, which looks for ``python3`` in PATH to find its packages: with the virtual
        environment's ``bin`` in front, models import what is installed beside Baton.
        """
        env = {**os.environ, **(extra or {})}
        libraries = [str(path) for path in self.installation.libraries]
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, [env.get("LD_LIBRARY_PATH")])])
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), *filter(None, [env.get("PATH")])])
        return env

    def _launch(self, command: list[str], env: dict[str, str], secret: str | None, parent: int, memory: str) -> None:
        """Starts the process from a thread that stays until it exits.

        The kernel sends the parent-death signal when the *thread* that started a process ends, so it must not be
        one of a caller's that ends earlier. Nor may another one reveal what the command line hides.
        """
        assert self._log is not None  # noqa: S101 - start() set it
        launched: Future[subprocess.Popen[bytes]] = Future()
        self._exited = exited = threading.Event()
        log = open_private(self._log)
        self._log_begin = log.tell()

        def begin(words: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
            words = wrapped_command(words, parent=parent, traced=bool(variables), memory=memory)
            return subprocess.Popen(  # noqa: S603 - the command is built in this module
                words, env=env | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

        def run() -> None:
            with log:
                try:
                    words, concealed = (command, {}) if secret is None else masked(command, secret)
                    process = begin(words, concealed)
                    if not reveal(process.pid, concealed):
                        process.wait()
                        process = begin(command, {})
                except OSError as error:
                    launched.set_exception(error)
                    return
            launched.set_result(process)
            process.wait()
            exited.set()

        threading.Thread(target=run, name="local-triton", daemon=True).start()
        try:
            self._process = launched.result()
        except OSError as error:
            raise BatonError(f"{command[0]} can't be started: {error}.", mend="Run `ctl doctor`.") from error

    def _wait_until_it_answers(self, deadline: float, timeout: float, admin_key: str | None) -> None:
        exposed = admin_key
        # HTTP listens a moment after gRPC answers (seen on 2.51).
        while not (
            is_listening(self.host, self.ports.grpc)
            and self._answers()
            and (not self.ports.http or is_listening(self.host, self.ports.http))
        ):
            if exposed is not None and self._has_read_its_options():
                self._blank(exposed)
                exposed = None
            if self._exited.wait(_LOOK_EVERY if exposed is None else _LOOK_SOON):
                raise Unreachable(
                    f"Triton exited with code {self.poll()} while it started. The end of {self._log}:\n"
                    f"{self.last_log_lines()}\n",
                    mend="`ctl doctor` checks what Triton needs.",
                )
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"Triton does not answer on {self.grpc_url} after {timeout:g} s. The end of {self._log}:\n"
                    f"{self.last_log_lines()}\n",
                    mend="`ctl doctor` checks what Triton needs.",
                )

        if exposed is not None:
            self._blank(exposed)

    def _has_read_its_options(self) -> bool:
        """Whether Triton logged something: it reads its command line before that (seen on 2.51)."""
        assert self._log is not None  # noqa: S101 - start() set it
        with self._log.open("rb") as log:
            log.seek(self._log_begin)
            return _LOGGED.search(log.read(_TAIL_WIDTH * _TAIL_LINES)) is not None

    def _blank(self, secret: str) -> None:
        """Takes the key out of the process's environment, and out of a command line that could not hide it."""
        pid = self.pid
        if pid is not None and not procfs.blank(pid, secret):
            _log.warning(
                "Triton's admin key stays visible in this machine's process list: the kernel does not let process %d's "
                "command line be overwritten. Mount /proc with hidepid=2 where other users are on this machine.",
                pid,
            )

    def _answers(self) -> bool:
        # A new client each time: an old channel that failed once waits a second and more before it tries again.
        with tritonclient.grpc.InferenceServerClient(self.grpc_url, channel_args=[DIRECT]) as client:
            try:
                return bool(client.is_server_ready(client_timeout=5.0))
            except InferenceServerException:  # not yet
                return False

    def _kill(self) -> None:
        """Ends what is left of the session at once and removes its shared memory."""
        if self._process is None:
            return
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._exited.wait()
        procfs.kill_session(self._process.pid)
        procfs.remove_regions(self._prefix)


def _listener(name: str, host: str, port: int) -> list[str]:
    return [f"--{name}-address={host}", f"--{name}-port={port}"] if port else [f"--allow-{name}=false"]


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU to its processes (``/dev/dxg``: under WSL)."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
