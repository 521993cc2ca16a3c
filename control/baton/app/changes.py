"""The verbs that change something: what a person asks for, and when it is refused.

Each looks at the service as it is now, under the loop's lock, and writes down what is asked for. The loop then does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from baton import on_disk, report, verbs
from baton.controller.content import ContentVerifier, differing
from baton.controller.service import Service
from baton.domain import Kind, Outcome, Phase, ReleaseStatus, Rollout
from baton.errors import Refused, RepositoryError, Unreachable, UsageError
from baton.facts import Paused, Pruned, Ticket, iso
from baton.plan import View
from baton.plan.prune import noted, surplus, way_back
from baton.plan.traffic import before_traffic, position_of
from baton.reasons import Reason, because

if TYPE_CHECKING:
    from baton.app import App


def promote(app: App, asked: verbs.Promote) -> Ticket:
    """A rollout that waits goes on: past the wait, and past the pause step it stands at.

    ``full`` skips the shadow and the traffic steps that remain, and no gate that is asked before them.
    """
    one = app.service(asked.service)
    with app.loop.lock:
        view = _look(app, one)
        if view.rollout is not None:
            return _go_on(app, one, view.rollout, asked)
        version = asked.version if asked.version is not None else _next(one, view)
        _startable(one, view, version)
        used = view.alias is None and any(version in s.ready() for s in view.live())
        why = because(Reason.ADOPTED if used else Reason.PROMOTED)
        opened = one.begin(view, Kind.ROLLOUT, version, view.stable(), asked.who, why, promoted=True, full=asked.full)
        app.loop.wake()
        return _ticket(opened, "live", f"The rollout of version {version} begins.")


def _go_on(app: App, one: Service, rollout: Rollout, asked: verbs.Promote) -> Ticket:
    candidate = rollout.candidate
    if asked.version not in (None, candidate) or rollout.kind is not Kind.ROLLOUT:
        raise _busy(rollout)
    if rollout.stop is not None or rollout.phase is Phase.ROLLING_BACK:
        why = because(Reason.ROLLED_BACK) if rollout.stop is None else rollout.stop.why
        raise Refused(because(Reason.ON_ITS_WAY_BACK, version=candidate, why=why))
    if rollout.phase in report.MOVED:
        raise Refused(because(Reason.SERVES_ALREADY, version=candidate))
    if rollout.phase is Phase.WAITING and (held := rollout.held()) is not None:
        raise Refused(because(Reason.NOT_PROMOTED, version=candidate, gate=held.gate, said=held.message))
    pause = rollout.progressed_at is not None and position_of(rollout, one.settings).pause
    app.journal.rollouts.promote(rollout, asked.who, app.loop.clock(), full=asked.full, approve=pause)
    app.loop.wake()
    return _ticket(rollout, "live", f"The rollout of version {candidate} continues.")


def rollback(app: App, asked: verbs.Rollback) -> Ticket:
    """A rollout that is under way gives way; else the earlier version comes back by a rollout of its own.

    A rollback does not ask the gates of files: the folder must hold what served, or be named with ``changed``.
    """
    if asked.changed and asked.to is None:
        raise UsageError("--changed goes with a version.", mend="Name it with --to N.")
    one = app.service(asked.service)
    why = because(Reason.ASKED_BACK, who=asked.who)
    proved = None
    while True:
        with app.loop.lock:
            view = _look(app, one)
            if (rollout := view.rollout) is not None:
                if asked.to not in (None, rollout.previous):
                    raise _busy(rollout)
                if rollout.previous is None:
                    raise Refused(because(Reason.NONE_EARLIER))
                one.halt(rollout, _outcome_of_stop(rollout), asked.who, why)
                return _ticket(rollout, "ended", f"Back to version {rollout.previous}.")
            target = asked.to if asked.to is not None else _previous(app, one, view)
            _way_there(app, one, view, target)
            fingerprint = view.folders[target].fingerprint
            if asked.changed or fingerprint == proved or _looks_as_it_served(view, target):
                if asked.changed:
                    app.journal.notes.manifest(target).put(one.name, None)  # the hashes of another content
                opened = one.begin(view, Kind.ROLLBACK, target, view.alias, asked.who, why, promoted=True)
                app.loop.wake()
                return _ticket(opened, "live", f"Version {target} is loaded again, then the alias moves.")
        _prove_as_it_served(app, one, view, target)
        proved = fingerprint


def _way_there(app: App, one: Service, view: View, target: int) -> None:
    _not_pruned(one, view, target)
    if target == view.alias:
        raise Refused(because(Reason.SERVES_ALREADY, version=target))
    if target not in view.folders or not view.folders[target].complete:
        raise Refused(because(Reason.NOT_WHOLE, version=target))
    record, lower = view.records.get(target), target < (view.alias or 0)
    refused = record is not None and record.status is ReleaseStatus.REJECTED
    served = target in app.journal.rollouts.served(one.name)
    if (refused and not (lower and served)) or (record is None and not lower):
        raise Refused(because(Reason.NEVER_SERVED, version=target, higher=not lower))


def _looks_as_it_served(view: View, version: int) -> bool:
    record = view.records.get(version)
    known = {view.loaded.get(version), None if record is None else record.fingerprint}
    return view.folders[version].fingerprint in known


def _prove_as_it_served(app: App, one: Service, view: View, version: int) -> None:
    """Hashes the whole folder, outside of the loop's lock. Of a version of which nothing is recorded nothing is asked.

    Raises:
        Refused: it holds something else than it did, or that can't be told.
    """
    known, record = app.journal.notes.manifest(version).get(one.name), view.records.get(version)
    if known is not None:
        if wrong := differing(known, app.manifest(one.name, version)):
            raise Refused(because(Reason.NOT_AS_SERVED, version=version, file=wrong[0], more=len(wrong) - 1))
    elif record.fingerprint if record is not None else version in app.journal.rollouts.served(one.name):
        raise Refused(because(Reason.NOT_AS_SERVED, version=version))


def abort(app: App, asked: verbs.Abort) -> Ticket:
    """Stop the rollout that is under way."""
    one = app.service(asked.service)
    with app.loop.lock:
        rollout = app.journal.rollouts.current(one.name)
        if rollout is None:
            raise Refused(because(Reason.NONE_UNDER_WAY, service=one.name))
        one.halt(rollout, _outcome_of_stop(rollout), asked.who, because(Reason.ABORTED, who=asked.who))
        return _ticket(rollout, "ended", f"Rollout of version {rollout.candidate} is being stopped.")


def retry(app: App, asked: verbs.Retry) -> Ticket:
    """Try a refused or withdrawn version again, if need be declared anew; or accept a live folder as unchanged."""
    one, version = app.service(asked.service), asked.version
    with app.loop.lock:
        view = _look(app, one)
    if version is not None and version == view.alias:
        return _accept(app, one, view, version, asked.who)
    with app.loop.lock:
        view = _look(app, one)  # again: the loop may have gone on in between
        if view.rollout is not None:
            return _ask_again(app, view.rollout, asked)
        decided = [r for r in view.records.values() if r.status in (ReleaseStatus.REJECTED, ReleaseStatus.WITHDRAWN)]
        if version is None and not decided:
            raise Refused(because(Reason.NOTHING_TO_RETRY, service=one.name))
        chosen = version if version is not None else max(decided, key=lambda r: r.at).version
        _startable(one, view, chosen, again=True)
        if asked.release is not None:
            app.journal.notes.release(chosen).put(one.name, asked.release)
        app.journal.versions.forget(one.name, chosen, asked.who, app.loop.clock())
        why = because(Reason.TRIED_AGAIN, release=asked.release)
        opened = one.begin(view, Kind.ROLLOUT, chosen, view.stable(), asked.who, why, promoted=False)
        app.loop.wake()
        return _ticket(opened, "live", f"Version {chosen} is {why}.")


def _ask_again(app: App, rollout: Rollout, asked: verbs.Retry) -> Ticket:
    """Ask the gates of a rollout that waits for evidence once more."""
    candidate = rollout.candidate
    if rollout.phase is not Phase.WAITING or rollout.held() is None or asked.version not in (None, candidate):
        raise _busy(rollout)
    if asked.release not in (None, rollout.release):
        raise Refused(because(Reason.JUDGED_AS, version=candidate, release=rollout.release, asked=asked.release))
    why = because(Reason.HELD_ASKED_AGAIN, version=candidate)
    opened = app.journal.rollouts.drop_holds(rollout, asked.who, why, app.loop.clock())
    app.loop.wake()
    return _ticket(opened, "live", str(why))


def _accept(app: App, one: Service, view: View, version: int, who: str) -> Ticket:
    """The folder of the live version was changed: prove that its content is what serves, then go on.

    Hashes the whole folder, outside of the loop's lock.
    """
    folder = view.folders.get(version)
    if folder is None:
        raise Refused(because(Reason.LIVE_FOLDER_GONE, version=version))
    if view.loaded.get(version) == folder.fingerprint:
        raise Refused(because(Reason.UNCHANGED, version=version))
    verifier = ContentVerifier(one.name, app.journal, lambda number: app.manifest(one.name, number), app.loop.clock)
    verifier.accept(version, folder, who)
    app.loop.wake()
    message = f"The folder of version {version} holds the files that serve. The next load call loads them once more."
    return Ticket(one.name, None, "ended", message)


def verify(app: App, asked: verbs.Verify) -> Ticket:
    """A rollout of a kind of its own, which ends before any traffic."""
    one, version = app.service(asked.service), asked.version
    with app.loop.lock:
        view = _look(app, one)
        if view.rollout is not None:
            raise _busy(view.rollout)
        if version == view.alias:
            raise Refused(because(Reason.GATES_BEHIND, version=version))
        _on_disk(one, view, version)
        why = because(Reason.VERIFICATION)
        opened = one.begin(view, Kind.CHECK, version, view.alias, asked.who, why, promoted=True)
        app.loop.wake()
        return _ticket(opened, "ended", f"Version {version} is checked by every gate.")


def prune(app: App, asked: verbs.Prune) -> Pruned:
    """What is to go is written down, and the loop removes it."""
    one = app.service(asked.service)
    keep = one.settings.keep_versions if asked.keep is None else asked.keep
    if keep is None or keep < 0:
        raise Refused(because(Reason.NO_KEEP, service=one.name))
    with app.loop.lock:
        view = _look(app, one)
        back = _way_back(app, one, view)
        goes = surplus(view, keep, one.settings, back)
        if goes and not asked.dry_run:
            if view.rollout is not None:
                raise _busy(view.rollout)
            if (blocked := view.loads_blocked()) is not None:
                raise Refused(blocked)
            app.journal.notes.pruning().put(one.name, noted(view, goes, keep, asked.who))
            app.loop.wake()
        return on_disk.pruned(one, view, keep, goes, back, dry_run=asked.dry_run)


def pause(app: App, asked: verbs.Pause) -> Paused:
    """Freeze what goes on by itself. Rollback, abort and what a person starts still work."""
    return _pause(app, asked.who, paused=True)


def resume(app: App, asked: verbs.Resume) -> Paused:
    """Let it go on."""
    return _pause(app, asked.who, paused=False)


def _pause(app: App, who: str, *, paused: bool) -> Paused:
    with app.loop.lock:
        why = because(Reason.PAUSED if paused else Reason.RESUMED)
        app.journal.events.append(app.loop.clock(), "pause" if paused else "resume", why, who=who)
        for service in app.services.values() if paused else ():
            if (rollout := app.journal.rollouts.current(service.name)) is not None:
                app.journal.rollouts.freeze(rollout)
        app.loop.set_paused(paused)
    return Paused(paused=paused, message=str(why))


# What they look at, and what they refuse


def _look(app: App, service: Service) -> View:
    """The service as it is now.

    Raises:
        Unreachable: the loop has not looked yet.
        RepositoryError: a file of the service is broken, and not restored yet.
    """
    if service.view is None:
        raise Unreachable(because(Reason.JUST_STARTED))
    view = service.observe(app.loop.indexes, paused=app.loop.paused())
    if view.repairs:
        raise RepositoryError(str(because(Reason.CONFIG_BROKEN, error=view.repairs[0].problem)))
    return view


def _next(service: Service, view: View) -> int:
    waiting = view.pending(service.settings)
    if not waiting:
        raise Refused(because(Reason.NOTHING_NEW))
    return max(f.version or 0 for f in waiting)


def _previous(app: App, service: Service, view: View) -> int:
    """The version that served before the present one and was not taken back itself."""
    if (back := _way_back(app, service, view)) is not None:
        return back
    lower = frozenset(v for v, f in view.folders.items() if v < (view.alias or 0) and f.complete)
    raise Refused(because(Reason.NONE_KNOWN_EARLIER, lower=lower))


def _way_back(app: App, service: Service, view: View) -> int | None:
    return way_back(view.alias, app.journal.rollouts.served(service.name), view.records, view.folders)


def _not_pruned(service: Service, view: View, version: int) -> None:
    if version not in view.folders and (gone := service.removed().get(version)) is not None:
        raise Refused(because(Reason.WAS_PRUNED, version=version, at=iso(gone.at)))


def _on_disk(service: Service, view: View, version: int) -> None:
    _not_pruned(service, view, version)
    folder = view.folders.get(version)
    if folder is None:
        raise Refused(because(Reason.NO_SUCH_FOLDER, version=version))
    if folder.missing:
        raise Refused(because(Reason.ARRIVING, version=version, lacks=folder.missing[0]))


def _startable(service: Service, view: View, version: int, *, again: bool = False) -> None:
    _not_pruned(service, view, version)
    if view.alias is not None and version == view.alias:
        raise Refused(because(Reason.SERVES_ALREADY, version=version))
    if view.alias is not None and version < view.alias:
        raise Refused(because(Reason.LOWER, version=version, serves=view.alias))
    # First: a folder that was cut off for good was refused, and is not "still arriving".
    if (refusal := view.refused(version)) is not None and not again:
        raise Refused(because(Reason.WAS_REFUSED, version=version, why=refusal.reason))
    _on_disk(service, view, version)
    if (blocked := view.loads_blocked()) is not None:
        raise Refused(blocked)


def _ticket(rollout: Rollout, until: Literal["live", "ended"], message: str) -> Ticket:
    return Ticket(rollout.service, rollout.id, until, message)


def _busy(rollout: Rollout) -> Refused:
    return Refused(because(Reason.BUSY, kind=rollout.kind, version=rollout.candidate, phase=rollout.phase))


def _outcome_of_stop(rollout: Rollout) -> Outcome:
    return Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
