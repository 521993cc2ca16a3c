"""Makes the facts about the versions on disk: what each is to its service, and which of them may be removed."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from baton.controller.service import Service
from baton.domain import Folder, Phase, ReleaseStatus, VersionMeta, VersionState
from baton.facts import PrunableVersion, Pruned, VersionOnDisk
from baton.plan import DeleteRemoved, Prune, View
from baton.plan.prune import needed
from baton.reasons import Reason, because, named


def versions(one: Service) -> list[VersionOnDisk]:
    """The versions of a service on disk, lowest first; then what lies beside them by mistake (``version`` null)."""
    view = one.view
    if view is None:
        return []
    found: list[tuple[int | None, Folder, VersionMeta, VersionState, str]] = [
        (number, folder, *version_of(one, view, number, folder)) for number, folder in sorted(view.folders.items())
    ]
    found += [(None, f, VersionMeta(f.name), VersionState.REJECTED, f.problem or "") for f in view.unexpected]
    return [
        VersionOnDisk(
            service=one.name,
            version=number,
            label=meta.label,
            release=None if number is None else meta.release,
            state=state,
            size=folder.size,
            trained_at=meta.trained_at,
            metrics=meta.metrics,
            notes=meta.notes,
            reason=reason,
        )
        for number, folder, meta, state, reason in found
    ]


def version_of(one: Service, view: View, number: int, folder: Folder) -> tuple[VersionMeta, VersionState, str]:
    """What it says of itself, what it is now, and why."""
    meta, wrong = one.meta(number, folder.fingerprint)
    state, reason = _state(view, one, number, folder)
    return meta, state, reason or wrong or ""


def _state(view: View, one: Service, number: int, folder: Folder) -> tuple[VersionState, str]:
    rollout, record = view.rollout, view.records.get(number)
    ready = view.ready_anywhere(number)
    if number == view.alias and any(number in s.serving() for s in view.live()):
        unhealthy = [
            f"does not answer on server {s}: {h.reason}" for (s, v), h in view.unhealthy.items() if v == number
        ]
        adopted = [str(record.reason)] if record is not None and record.status is ReleaseStatus.ADOPTED else []
        return VersionState.SERVING, " ".join(unhealthy or adopted)
    if rollout is not None and rollout.candidate == number and rollout.phase is not Phase.ROLLING_BACK:
        return VersionState.CANDIDATE, ""
    if rollout is not None and rollout.previous == number and ready:
        return VersionState.STANDBY, "kept for an instant rollback"
    if ready:
        return VersionState.LOADED, ""
    if (refusal := view.refused(number)) is not None:
        return VersionState.REJECTED, str(refusal.reason)
    if folder.missing:
        return VersionState.INCOMING, f"lacks {folder.missing[0]}"
    if view.now - folder.quiet_since < one.settings.settle:
        return VersionState.INCOMING, "changed a moment ago"
    if record is not None and record.status is ReleaseStatus.WITHDRAWN:
        return VersionState.ON_DISK, str(record.reason)
    if record is None and view.alias is not None and number < view.alias:
        return VersionState.ON_DISK, f"lower than version {view.alias}, which serves: not taken up by itself"
    return VersionState.ON_DISK, ""


def not_removed(view: View) -> list[str]:
    """Why versions that were to go are still on disk, or their files."""
    stuck = (f for e, f in view.failed.items() if isinstance(e, Prune) and e.version in view.folders)
    return [failure.message for failure in (*stuck, view.failed.get(DeleteRemoved())) if failure is not None]


def pruned(
    one: Service, view: View, keep: int, goes: Collection[int], way_back: int | None, *, dry_run: bool
) -> Pruned:
    """What ``ctl prune`` removes, and why the other versions stay."""
    newest = because(Reason.STAYS_NEWEST, keep=keep)
    versions = []
    for number, folder in sorted(view.folders.items()):
        why = None if number in goes else needed(view, number, one.settings, way_back) or newest
        meta, _ = one.meta(number, folder.fingerprint)
        reason, code = ("", Reason.OTHER) if why is None else (str(why), why.reason)
        versions.append(PrunableVersion(number, meta.label, folder.own_size, why is None, reason, code))
    try:
        free = shutil.disk_usage(one.files.engine_dir).free
    except OSError:
        free = None
    deleting = () if DeleteRemoved() in view.failed else one.deleting()
    waiting = view.pruning is not None if dry_run else bool(goes)
    doing = f"Deleting the files of {named(deleting)}." if deleting else ""
    return Pruned(
        service=one.name,
        keep=keep,
        dry_run=dry_run,
        versions=tuple(versions),
        bytes=sum(v.bytes for v in versions if v.goes),
        free=free,
        under_way=bool(deleting) or waiting,
        doing=one.decision.message if waiting else doing,
        problems=tuple(not_removed(view)),
    )
