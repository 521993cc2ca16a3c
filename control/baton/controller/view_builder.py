"""Puts together what the plan sees of one service: files, repository indexes, journal, and what tasks have found.

Looking changes nothing: no file, no journal, no server, and no task is started. What needs a repair, and what the
journal does not know yet, is part of the view, and the plan asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from baton.config import ServiceConfig
from baton.controller.config_repairer import ConfigRepairer
from baton.controller.health import Health
from baton.controller.ports import Ports
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Tasks
from baton.controller.traffic_split import TrafficSplit
from baton.domain import Folder, ModelState, ModelVersion, Phase, ReleaseStatus, Rollout, VersionRecord
from baton.errors import BatonError
from baton.plan import AdoptVersion, Effect, RecordLoaded, Reload, ServerView, Sync, Upkeep, View
from baton.plan.prune import way_back
from baton.triton.port import Index

log = logging.getLogger(__name__)


class ViewBuilder:
    """Of one service. Used under the loop's lock, but for ``scan``."""

    def __init__(
        self,
        config: ServiceConfig,
        ports: Ports,
        configs: ConfigRepairer,
        client: SplitterClient,
        split: TrafficSplit,
        health: Health,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._ports = ports
        self._configs = configs
        self._client = client
        self._split = split
        self._health = health
        self._tasks = tasks
        self._begun: frozenset[Effect] = frozenset()
        """Calls that were under way when the servers' indexes were about to be read."""
        self._leaving: dict[tuple[str, int], float] = {}
        self._emptied: set[tuple[str, int]] = set()
        self._entries: list[Folder] | None = None
        """None until the directory could be listed: what was never seen is not gone."""
        self.just_started = True
        """Nothing was decided on a view yet."""

    def scan(self) -> list[Folder]:
        """List the engine's directory. Called without the loop's lock: a network file system may be slow."""
        self._entries = self._ports.scan()
        return self._entries

    def forget(self, version: int) -> None:
        """The version's folder was removed since the last scan."""
        self._entries = [f for f in self._entries or () if f.version != version]

    def begin_round(self) -> None:
        """The servers' indexes are about to be read. Calls that run now may change what they show, also if they end."""
        self._begun = frozenset(e for e in self._tasks.running() if isinstance(e, Sync | Reload))

    def build(self, indexes: Mapping[str, Index | str], *, paused: bool) -> View:
        """The service as it is now. ``indexes``: each server's repository index, or why there is none."""
        name, journal = self._config.name, self._ports.journal
        # Before the journal is read: what ends meanwhile has its result there, or still counts as running.
        running = self._tasks.running() | self._begun
        entries = self.scan() if self._entries is None else self._entries
        now, rollout = self._ports.clock(), journal.rollouts.current(name)
        servers = tuple(self._server(server, index, rollout) for server, index in indexes.items())
        files = self._configs.read()
        if files.repairs:
            return View(
                name, now, frozenset(), None, (), running=running, failed=self._tasks.failed(), paused=paused,
                repairs=files.repairs,
            )  # fmt: skip
        folders = {f.version: f for f in entries if f.version is not None and f.problem is None}
        unexpected = tuple(f for f in entries if f.problem is not None)
        recorded = journal.notes.loaded().get(name)
        loaded = dict(recorded or {})
        # What Triton serves and the journal does not know was loaded from the folders as they are.
        first_seen = {v: folders[v].fingerprint for s in servers for v in s.ready() if v in folders and v not in loaded}
        present, known_unexpected = {f.name: f.fingerprint for f in unexpected}, journal.notes.unexpected().get(name)
        records = journal.versions.records(name)
        pruning = journal.notes.pruning().get(name)
        served = () if pruning is None else journal.rollouts.served(name)
        unrecorded: list[Upkeep] = []
        if first_seen or known_unexpected is None or (recorded is None and files.alias is not None):
            unrecorded.append(RecordLoaded())
        unrecorded += files.unrecorded
        if rollout is None and _adopted(files.alias, servers, records):
            unrecorded.append(AdoptVersion())
        return View(
            service=name,
            now=now,
            version_policy=files.version_policy,
            alias=files.alias,
            split=files.split,
            splitter=files.splitter,
            keyed=self._ports.files.keyed(),
            servers=servers,
            folders=folders,
            unexpected=unexpected,
            records=records,
            loaded=loaded | first_seen,
            known_unexpected=present if known_unexpected is None else known_unexpected,
            rollout=rollout,
            running=running,
            failed=self._tasks.failed(),
            paused=paused,
            live_gate=self._split.verdict_on(rollout),
            unhealthy=self._health.unhealthy(),
            answered=self._health.answered(),
            just_started=self.just_started,
            pruning=pruning,
            way_back=way_back(files.alias, served, records, folders),
            unrecorded=tuple(unrecorded),
        )

    def _server(self, name: str, index: Index | str, rollout: Rollout | None) -> ServerView:
        if isinstance(index, str):
            return ServerView(name, live=False, reason=index)
        server = self._ports.servers[name]
        splitter = splitter_state(index, self._config)
        split = False
        if splitter is not None:
            try:
                split = server.step(self._config.name) == self._config.splitter
            except BatonError as error:
                return ServerView(name, live=False, reason=str(error))
        inflight = None
        if rollout is not None and rollout.phase is Phase.RETIRING:
            try:
                inflight = server.inflight(self._config.engine)
            except BatonError as error:
                log.warning("%s", error)
        engine = index.get(self._config.engine, {})
        return ServerView(
            name,
            live=True,
            engine=engine,
            alias=index.get(self._config.name, {}),
            split=split,
            splitter=splitter,
            # Of one that is gone the client may still have the last report.
            steered=None if splitter is None else self._client.steered(name),
            locked=splitter is not None and self._client.locked(name),
            outstanding=None if splitter is None else self._client.outstanding(name),
            inflight=inflight,
            leaving_since=self._leaving_since(name, engine),
            emptied=self._emptied_of(name, engine),
        )

    def _leaving_since(self, name: str, engine: Mapping[int, ModelVersion]) -> dict[int, float]:
        """When each version that is UNLOADING was first seen so, by this control plane."""
        leaving = {v for v, m in engine.items() if m.state is ModelState.UNLOADING}
        self._leaving = {k: at for k, at in self._leaving.items() if k[0] != name or k[1] in leaving}
        return {v: self._leaving.setdefault((name, v), self._ports.clock()) for v in leaving}

    def _emptied_of(self, name: str, engine: Mapping[int, ModelVersion]) -> frozenset[int]:
        """Versions that are UNLOADING though their processes, which were seen, have all ended."""
        processes = self._ports.engines
        leaving = {v for v, m in engine.items() if m.state is ModelState.UNLOADING}
        known = {v for n, v in self._emptied if n == name} & leaving
        gone = {v for v in leaving - known if processes.lost(name, v) and not processes.running(name, v)}
        self._emptied = {k for k in self._emptied if k[0] != name} | {(name, v) for v in known | gone}
        return frozenset(known | gone)


def splitter_state(index: Index, config: ServiceConfig) -> ModelState | None:
    """The state of the splitter on a server; None when it is not loaded."""
    states = (m.state for m in index.get(config.splitter, {}).values())
    return next((s for s in states if s is not ModelState.UNAVAILABLE), None)


def _adopted(alias: int | None, servers: tuple[ServerView, ...], records: Mapping[int, VersionRecord]) -> bool:
    """Whether the alias's version serves although the journal does not call it released.

    So it is after the state was lost, and when an older journal was put back. What serves is taken as it is: no client
    is better off when traffic is moved because of a record.
    """
    if alias is None or not any(s.live and alias in s.serving() for s in servers):
        return False
    known = records.get(alias)
    return known is None or known.status not in (ReleaseStatus.RELEASED, ReleaseStatus.ADOPTED)
