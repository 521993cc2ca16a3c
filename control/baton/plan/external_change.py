"""Reasons to end a rollout that neither a gate nor a person gave: files were changed, or a newer version came."""

from __future__ import annotations

from baton.domain import Kind, Outcome, Phase, Rollout, Stop
from baton.plan.traffic import bad_outcome, before_traffic
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, because


def external_stop(view: View, rollout: Rollout, settings: RolloutSettings) -> Stop | None:
    """The first of these reasons."""
    return _alias_changed(view, rollout) or _folder_changed(view, rollout) or _superseded(view, rollout, settings)


def _alias_changed(view: View, rollout: Rollout) -> Stop | None:
    """The alias's files lead where this rollout never brought them: the rollout ends, and they stay as they are.

    The journal is older than the files (it was put back from a backup, or a disk was), or a person edited them. Clients
    are where the files lead, and an older record must not take them from there.
    """
    alias, version, previous = view.alias, rollout.candidate, rollout.previous
    if alias is None:
        return None
    moved = rollout.phase in (Phase.BAKING, Phase.RETIRING) and rollout.kind is not Kind.CHECK
    why = because(Reason.OVERTAKEN, alias=alias, version=version, moved=moved)
    if alias == version and rollout.kind is not Kind.CHECK:
        # Also in a pause step: only in SHIFTING does a rollout move the alias.
        early = before_traffic(rollout) or rollout.phase is Phase.WAITING
        return Stop(Outcome.LIVE, "engine", why) if early else None
    if moved:
        return Stop(Outcome.LIVE if alias > version else Outcome.ROLLED_BACK, "engine", why)
    # A first version may replace one that is lost, which the alias still leads to; that one is lower.
    expected = alias == previous or (previous is None and alias < version)
    return None if expected else Stop(Outcome.ABORTED, "engine", why)


def _folder_changed(view: View, rollout: Rollout) -> Stop | None:
    """The candidate's folder is not the one that the gates passed, or is gone.

    That counts also while traffic is split: a server that restarts loads what is there now, which no gate has seen.
    """
    version = rollout.candidate
    on_its_way = before_traffic(rollout) or rollout.phase in (Phase.SHIFTING, Phase.WAITING)
    if not on_its_way or view.alias == version or rollout.kind is Kind.ROLLBACK:
        return None
    folder = view.folders.get(version)
    if folder is None:
        return Stop(bad_outcome(rollout), "watcher", because(Reason.FOLDER_REMOVED_MEANWHILE, version=version))
    if folder.fingerprint == rollout.fingerprint:
        return None
    why = because(Reason.FOLDER_CHANGED_MEANWHILE, version=version, proved=bool(rollout.gates))
    return Stop(bad_outcome(rollout), "watcher", why)


def _superseded(view: View, rollout: Rollout, settings: RolloutSettings) -> Stop | None:
    if not before_traffic(rollout) or rollout.kind is not Kind.ROLLOUT or not settings.supersede or view.paused:
        return None
    newer = [f.version for f in view.pending(settings) if f.version is not None and f.version > rollout.candidate]
    return Stop(Outcome.SUPERSEDED, "watcher", because(Reason.SUPERSEDED, version=newer[-1])) if newer else None
