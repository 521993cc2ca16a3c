"""Makes the load and unload calls that bring a server in line with a service's files."""

from __future__ import annotations

from baton.config import ServiceConfig
from baton.controller.ports import Ports
from baton.domain import Model, ModelState
from baton.errors import RepositoryError, TritonError
from baton.plan import Sync, View
from baton.triton.repository import SPLITTER_VERSION
from baton.triton.words import NO_POLL


class ModelLoader:
    """Of one service. Called without the loop's lock: a load may take minutes."""

    def __init__(self, config: ServiceConfig, ports: Ports) -> None:
        self._config = config
        self._files = ports.files
        self._servers = ports.servers
        self._journal = ports.journal

    def name(self, model: Model) -> str:
        """The model's name in Triton."""
        config = self._config
        return {Model.ENGINE: config.engine, Model.ALIAS: config.name, Model.SPLITTER: config.splitter}[model]

    def sync(self, effect: Sync, view: View) -> None:
        """Have a server load, or unload, a model as the files say now.

        Raises:
            RepositoryError: the files have changed since that was decided, or can't be read.
            TritonError: it does not load.
            TimedOut: Triton has not finished.
            Unreachable: the server went away.
        """
        server, model = self._servers[effect.server], self.name(effect.model)
        timeout_s, times = self._config.gates.request_timeout, 1
        if effect.model is Model.ALIAS:
            version = self._files.alias()
            wanted = frozenset() if version is None else frozenset({version})
            _unchanged(model, version is not None or view.alias is None)
            # An ensemble that was just loaded is made anew by every later load call until it got a second one
            # (seen on 24.10); the second call changes nothing else.
            times = 2
        elif effect.model is Model.SPLITTER:
            stable = self._files.splitter()
            wanted = frozenset() if stable is None else frozenset({SPLITTER_VERSION})
            _unchanged(model, stable is not None or view.splitter is None)
        else:
            wanted, timeout_s = self._files.policy(), self._config.rollout.load_timeout
            _unchanged(model, all(s.serving() <= wanted for s in view.servers if s.name == effect.server))
            self._record_folders(view, wanted)
        if not wanted:
            server.unload(model, timeout_s)
            return
        for _ in range(times):
            try:
                server.load(model, timeout_s)
            except TritonError as error:
                # Triton itself says no more than that it can't use the file.
                if effect.model is Model.ENGINE and NO_POLL in error.words and (why := self._files.doubts()):
                    raise TritonError(why, words=error.words) from None
                raise
        states = server.index().get(model, {})
        for version in sorted(wanted):
            state = states.get(version)
            if state is None or state.state is not ModelState.READY:
                shown = "not in the repository index" if state is None else f"{state.state}: {state.reason}"
                raise TritonError(f"{model} version {version} is {shown} after the load call.")
        stayed = [v for v, m in states.items() if m.state is ModelState.READY and v not in wanted]
        if stayed and effect.model is Model.ENGINE:
            raise TritonError(f"{model} version {stayed[0]} is still READY after the load call.")

    def _record_folders(self, view: View, wanted: frozenset[int]) -> None:
        """Record the fingerprints of the folders that Triton is about to load; those of READY versions stay."""
        ready = {v for s in view.servers for v in s.ready()}
        loaded = {v: f for v, f in view.loaded.items() if v in wanted and v in ready}
        loaded |= {v: view.folders[v].fingerprint for v in wanted if v in view.folders and v not in loaded}
        self._journal.notes.loaded().put(self._config.name, loaded)
        unexpected = {entry.name: entry.fingerprint for entry in view.unexpected}
        self._journal.notes.unexpected().put(self._config.name, unexpected)


def _unchanged(model: str, condition: bool) -> None:  # noqa: FBT001 - what must hold
    """Raise if a file was changed since the call was decided on, so that the call would unload what serves."""
    if not condition:
        raise RepositoryError(
            f"The files of {model} were changed just before a load call, and the call would have unloaded the version "
            f"that serves. Baton did not make it and looks again."
        )
