"""Carries out what the plan asks for: at once what is a file or a line in the journal, the rest in the background.

Each effect can be repeated without harm. It is written down in the journal before it is carried out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from baton.config import ServiceConfig
from baton.controller.config_repairer import ConfigRepairer
from baton.controller.health import Health
from baton.controller.model_loader import ModelLoader
from baton.controller.ports import Checks, Ports
from baton.controller.recorder import RolloutRecorder
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Task, Tasks
from baton.domain import Gate, Model, Rollout, Verdict
from baton.errors import BatonError, TritonError
from baton.plan import (
    AdoptVersion,
    Ask,
    Begin,
    DeleteRemoved,
    Effect,
    End,
    EndPruning,
    Prune,
    RecordConfig,
    RecordLoaded,
    Reload,
    RepairConfig,
    SetAlias,
    SetPolicy,
    SetSplitter,
    Sync,
    VerifyContent,
    View,
)
from baton.probe import Cancelled
from baton.reasons import Reason, Why, because

DELETE_AGAIN_S = 3600.0
"""How long files that could not be deleted are left alone."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Of one service. ``act`` is called under the loop's lock; what it starts in the background runs without it."""

    config: ServiceConfig
    ports: Ports
    checks: Checks
    tasks: Tasks
    loader: ModelLoader
    recorder: RolloutRecorder
    configs: ConfigRepairer
    client: SplitterClient
    health: Health

    def act(self, effect: Effect, view: View, doing: Why) -> bool:
        """Begin the effect. True when it is done already, so that it is worth looking again at once."""
        rollout = view.rollout
        match effect:
            case Sync():
                call = because(Reason.LOAD_CALL, model=self.loader.name(effect.model), server=effect.server)
                self.recorder.log("sync", call, rollout)
                self.tasks.start(effect, lambda _task: self._sync(effect, view))
                return False
            case Reload(server):
                self._reload(effect, server, view)
                return False
            case Ask(gate):
                assert rollout is not None  # noqa: S101 - the plan asks gates only about a rollout
                asked = because(Reason.GATE_ASKED, gate=gate, version=rollout.candidate)
                self.recorder.log("ask", asked, rollout)
                self.tasks.start(effect, lambda task: self._ask(gate, rollout, task))
                return False
            case _:
                return self.tasks.attempt(effect, lambda: self._at_once(effect, view, doing))

    def stop_asking(self) -> None:
        """Call off the gates that are being asked."""
        self.tasks.cancel(lambda e: isinstance(e, Ask))

    def verify_content(self, view: View, settle_s: float) -> None:
        """Record the content of what serves, or accept its folder when only its times have changed."""
        version, content = view.alias, self.checks.content
        folder = None if version is None else view.folders.get(version)
        if content is None or version is None or folder is None or view.now - folder.quiet_since < settle_s:
            return
        effect = VerifyContent(version, folder.fingerprint)
        if effect in view.failed or effect in view.running or version not in view.loaded:
            return
        if view.loaded[version] != folder.fingerprint:
            self.tasks.start(effect, lambda _task: content.accept(version, folder, "baton"))
        elif not content.known(version):
            self.tasks.start(effect, lambda _task: content.learn(version))

    def _at_once(self, effect: Effect, view: View, doing: Why) -> None:  # noqa: C901, PLR0912 - one case an effect
        files, recorder, rollout = self.ports.files, self.recorder, view.rollout
        match effect:
            case Prune(version):
                self._prune(version, view)
            case EndPruning():
                recorder.end_pruning()
            case RepairConfig(model):
                self.configs.repair(model)
            case RecordConfig(model, text):
                self.configs.record(model, text)
            case RecordLoaded():
                recorder.record_loaded(view)
            case AdoptVersion():
                recorder.adopt(view)
            case Begin():
                recorder.begin(view, effect.kind, effect.candidate, effect.previous, effect.who, effect.why)
                self.tasks.forget_failures()
            case SetPolicy(versions):
                recorder.log("policy", because(Reason.POLICY_WRITTEN, versions=versions), rollout)
                files.set_policy(versions)
            case SetAlias(version, split):
                recorder.log("alias", because(Reason.ALIAS_WRITTEN, version=version, split=split), rollout)
                if version is None:
                    self.configs.record(Model.ALIAS, None)
                files.set_alias(version, split=split)
            case SetSplitter(stable):
                recorder.log("splitter", because(Reason.SPLITTER_WRITTEN, stable=stable), rollout)
                if stable is None:
                    self.configs.record(Model.SPLITTER, None)
                files.set_splitter(stable)
            case _:
                assert rollout is not None  # noqa: S101 - the rest is about a rollout
                recorder.write(effect, view, rollout, doing)
                if isinstance(effect, End):
                    self.tasks.forget_failures()
                    files.tidy_alias()

    def _prune(self, version: int, view: View) -> None:
        """One that can't be removed is passed over: it is tried again after the next rollout, or by `ctl prune`."""
        asked = view.pruning
        assert asked is not None  # noqa: S101 - the plan prunes what was written down
        self.recorder.prune(version, view.folders[version].own_size, asked)
        try:
            self.ports.remover.take_out(version)
        except BatonError as error:
            self.recorder.not_pruned(version, error)
            raise
        finally:
            self.recorder.done_pruning(version, asked)

    def delete_removed(self, view: View) -> None:
        """Delete the files of what was taken out. What can't be deleted is tried again after an hour."""
        effect, failed = DeleteRemoved(), view.failed.get(DeleteRemoved())
        if effect in view.running or (failed is not None and view.now - failed.at < DELETE_AGAIN_S):
            return
        if self.ports.remover.left():
            self.tasks.start(effect, lambda _task: self.ports.remover.delete())

    def _reload(self, effect: Reload, server: str, view: View) -> None:
        version = view.alias
        assert version is not None  # noqa: S101 - the plan asks for it where a version serves

        def load() -> None:
            self.loader.sync(Sync(server, Model.ENGINE), view)
            self.loader.sync(Sync(server, Model.ALIAS), view)

        # A gate would blame its candidate for an engine that is taken out of the server meanwhile.
        self.stop_asking()
        why = because(Reason.ENGINE_RELOADED, model=self.config.engine, server=server, version=version)
        self.recorder.log("reload", why, view.rollout)
        self.tasks.start(effect, lambda _task: self.health.reload(server, version, load))

    # In the background

    def _sync(self, effect: Sync, view: View) -> None:
        try:
            self.loader.sync(effect, view)
        except TritonError as error:
            before = view.failed.get(effect)
            if before is None or before.words != error.words:  # the same words every 30 s would fill the journal
                model = self.loader.name(effect.model)
                why = because(Reason.LOAD_REFUSED, model=model, server=effect.server, error=str(error))
                self.recorder.log("refused", why, view.rollout, {"triton": error.words})
            raise
        if effect.model is Model.SPLITTER:
            self.client.unlock(effect.server)

    def _ask(self, gate: Gate, rollout: Rollout, task: Task) -> None:
        result = self.checks.gates.ask(gate, rollout, task.cancel.is_set)
        if task.cancel.is_set():
            raise Cancelled("Nobody needs the verdict any more.")
        if result.verdict is Verdict.HOLD:
            before = rollout.gates.get(gate)
            attempts = 1 + (before.evidence.attempts or 1) if before is not None else 1
            result = replace(result, evidence=replace(result.evidence, attempts=attempts))
        journal = self.ports.journal
        current = journal.rollouts.current(self.config.name)
        if current is not None and current.id == rollout.id:
            journal.rollouts.record(current, result, self.ports.clock())
