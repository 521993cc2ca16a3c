"""The sentence of each reason.

A template names the figures of its reason. Beside the formats of Python it knows a few of its own (:class:`_Words`).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from baton.reasons.reason import Reason
from baton.reasons.refusals import REFUSALS


def named(versions: Iterable[int]) -> str:
    """``version 2``, ``versions 1 and 2`` or ``no version``."""
    listed = [str(v) for v in sorted(versions)]
    return f"version{'s' if len(listed) > 1 else ''} {' and '.join(listed)}" if listed else "no version"


def _silent(servers: Iterable[tuple[str, str]]) -> str:
    """The servers that do not answer, each with the cause, such as a refused admin key. Most causes name the server."""
    return " ".join(
        (cause if name in cause else f"Server {name}: {cause}") if cause else f"Server {name} does not answer."
        for name, cause in servers
    )


def _away(servers: tuple[tuple[str, str], ...]) -> str:
    it = "it" if len(servers) == 1 else "them"
    return f"{_silent(servers)} Bring {it} back, or remove {it} from [[servers]] and restart the control plane."


def _passed(skipped: tuple[str, ...]) -> str:
    """A gate that was skipped did not pass, so it is named."""
    return f"every gate that ran has passed (skipped: {', '.join(skipped)})" if skipped else "every gate has passed"


def _bare(why: Any) -> str:
    """Without its full stop: as the first part of a longer sentence."""
    return str(why).rstrip(".")


def format_bytes(size: float) -> str:
    """A number of bytes for a person: ``812 bytes``, ``4.2 MiB``, ``16.3 GiB``."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size) >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} bytes"


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "versions": named,
    "Versions": lambda versions: named(versions).capitalize(),
    "silent": _silent,
    "away": _away,
    "passed": _passed,
    "Passed": lambda skipped: _passed(skipped).capitalize(),
    "bare": _bare,
    "servers": lambda names: f"server{'s' if len(names) > 1 else ''} {' and '.join(names)}",
    "size": format_bytes,
    "numbers": lambda versions: ", ".join(map(str, versions)),
    "on": lambda server: f" on server {server}." if server else "",
}
"""``{servers:away}`` and the like. ``on`` ends the sentence: a call that is made has its server."""


class _Words(string.Formatter):
    """Adds :data:`FORMATS`, and ``{figure:?text|other}``: the text where the figure is true, else the other.

    The text may name figures, the other may not. A missing figure counts as None: a reason from an earlier Baton may
    lack one.
    """

    def get_value(self, key: int | str, _args: Any, figures: Mapping[Any, Any]) -> Any:
        return figures.get(key)

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec in FORMATS:
            return FORMATS[format_spec](value)
        if format_spec.startswith("?"):
            yes, _, no = format_spec[1:].rpartition("|")  # a figure in the text may hold the sign, too
            return yes if value else no
        return str(value) if value is None or not format_spec else format(value, format_spec)


_NO_ANSWER = "Version {version} does not answer on server {server}, although Triton reports it as READY ({error:bare})."
_MACHINE = (
    "Server {server} can't load version {version}. The cause is the machine, not the version. Triton says: {error}"
)
_SPLITTER = "The splitter did not load on server {server}; Baton tries again. Triton says: {error}"

SENTENCES: Mapping[Reason, str] = {
    Reason.OTHER: "{text}",
    # Why a rollout begins
    Reason.ADOPTED: "Triton serves it already, without an alias",
    Reason.NEW_VERSION: "its folder is new and complete",
    Reason.CUT_OFF: "its folder is new, but a file is cut off and no more data arrives",
    Reason.PROMOTED: "promoted",
    Reason.TRIED_AGAIN: "tried again{release:?, declared {release}|}",
    Reason.VERIFICATION: "verification",
    Reason.ASKED_BACK: "rolled back by {who}",
    Reason.ABORTED: "aborted by {who}",
    Reason.BEGINS: "The rollout of version {version} begins: {why}.",
    # Without a rollout
    Reason.STARTING: "The control plane is starting.",
    Reason.SERVES: "Version {version} serves.",
    Reason.SERVED_DIRECTLY: "The alias leads to no version. Clients reach {versions:versions} of the engine directly.",
    Reason.NOTHING_SERVES: "No version serves{ever:?| yet}.",
    Reason.STILL_ARRIVING: "{serving} Version {version} is still arriving. Missing: {lacks}{more:? and {more} more|}.",
    Reason.ARRIVAL_STUCK: "{serving} Version {version} is incomplete, and nothing in its folder has changed for a long "
    "time. Missing: {lacks}{more:? and {more} more|}. Copy the rest, or remove the folder.",
    Reason.NO_FOLDER: "{serving} Copy a version folder into the engine's directory, or run `ctl push DIR`.",
    Reason.PAUSED_AT_REST: "{standing} Baton is paused: nothing starts by itself until `ctl resume`.",
    Reason.ALL_SILENT: "{servers:silent} Baton changes nothing until a server answers.",
    Reason.SOME_SILENT: "{servers:silent} {serves:?Version {serves} serves on the other servers.|No version serves.}",
    Reason.POLICY_WRONG: "The version policy names {versions:versions}, but version {serves} serves. Baton corrects "
    "the policy.",
    Reason.POLICY_LACKS_ALIAS: "The alias leads to version {version}, but the engine's version policy does not name "
    "it. Run `ctl promote N` or `ctl rollback --to N` with a version that can serve.",
    # Why Baton loads nothing
    Reason.FOLDER_GONE: "The folder of version {version}, which serves, is gone. Triton still has it loaded, but the "
    "next load call would unload it, so Baton loads nothing. Put the folder back: Baton goes on when it has verified "
    "the files.",
    Reason.FOLDER_CHANGED: "The folder of version {version}, which serves, was changed. Triton still has the old files "
    "loaded, but the next load call would load the changed ones, so Baton loads nothing. Restore the files: Baton goes "
    "on when it has verified them (`ctl retry {version}` shows what differs).",
    Reason.UNEXPECTED_ENTRY: "{name!r} in the engine's directory is not a version folder. {problem} Loaded versions "
    "are not affected, but the next load call would reload all of them, so Baton loads nothing until then.",
    Reason.DEADLY_ENTRY: "{name!r} in the engine's directory is not a version folder. {problem} Clients are served, "
    "and Baton loads nothing until then.",
    # Calls to Triton, and files
    Reason.LOADING: "Loading version {version}{server:on}",
    Reason.UNLOADING: "Unloading {versions:versions}{server:on}",
    Reason.MOVING_ALIAS: "Moving the alias to {split:?the splitter in front of |}version {version}{server:on}",
    Reason.REMOVING_ALIAS: "Removing the alias{server:on}",
    Reason.LOADING_SPLITTER: "Loading the splitter{server:on}",
    Reason.REMOVING_SPLITTER: "Unloading the splitter{server:on}",
    Reason.WAITS_FOR_RELOAD: "{doing} waits for server {server}, which is loading its stable version again.",
    Reason.LAST_TRY_FAILED: "{doing}. The last try on server {server} failed: {error}",
    Reason.SPLITTER_REFUSED: f"{_SPLITTER} Install the backend `splitter` beside Triton's own backends, or do "
    "without it: set `steps = []` and no shadow.",
    Reason.SPLITTER_NOT_LOADED: f"{_SPLITTER} If this continues, restart Triton on {{server}}: it comes back with "
    "version {stable}.",
    Reason.STUCK: "{doing:bare}. This has failed for {for_s:.0f} s (limit {limit_s:.0f} s). Last error: {error}"
    "{retry:? `ctl retry {retry}` starts a new rollout.|}",
    Reason.STILL_LOADING: "Server {server} is still loading {versions:versions} and takes no other load call until "
    "then. {serves:?Version {serves} keeps serving. |}If the load hangs, restart Triton on {server}: it comes back "
    "with {keep:versions}.",
    Reason.NOT_READY: "Version {version} is not READY on server {server}.",
    Reason.LAST_REQUESTS: "Waiting for the last requests of {versions:versions} on server {server}.",
    Reason.LAST_CALLS: "Waiting for the splitter's last calls to version {version} on server {server}.",
    Reason.REQUESTS_WAIT: "Waiting for the last requests of version {version} on server {server} ({count} left).",
    Reason.CALL_UNDER_WAY: "Waiting for a load call on server {server}. Then the alias moves back to version "
    "{version}.",
    Reason.WRITING_POLICY: "Writing the version policy: {versions:versions}.",
    Reason.NAMING: "Adding version {version} to the version policy.",
    Reason.KEEPING_UNTIL_MOVED: "Keeping {versions:versions} in the version policy until the alias has moved.",
    Reason.POINTING: "Pointing the alias at version {version}.",
    Reason.UNSPLITTING: "Pointing the alias at version {version}, without the splitter.",
    Reason.SPLITTING: "Pointing the alias at the splitter in front of version {version}.",
    Reason.WRITING_SPLITTER: "Writing the splitter's files for version {version}.",
    Reason.REMOVING_SPLITTER_FILES: "Removing the splitter's files.",
    # Gates
    Reason.GATE_LOOKS: "Gate {gate} checks version {version}.",
    Reason.GATE_COULD_NOT_LOOK: "Gate {gate} could not check version {version} and tries again: {error}",
    Reason.GATE_PASSED: "{said}",
    Reason.GATE_FAILED: "{said}",
    Reason.GATE_HOLDS: "Gate {gate} does not have enough evidence yet: {said}",
    Reason.GATE_AGAIN: "Gate {gate} checks again{said:?: {said}|.}",
    Reason.NO_EVIDENCE: "Gate {gate} does not have enough evidence{tries:? after {tries} tries|}: {said}",
    Reason.UNJUDGED: "Version {version} waits, because gate {gate} does not have enough evidence. {said} "
    "{previous:?Version {previous} keeps serving.|No client is sent to it.} `ctl retry {version}` runs the gate again; "
    "`ctl abort` ends the rollout.",
    Reason.FILES_PROVED: "The files are complete and compatible, and they fit in memory.",
    Reason.FILES_PROVED_ROOM_UNKNOWN: "The files are complete and compatible. Whether they fit in memory is unknown.",
    Reason.LOADS_ONCE_ALL_ANSWER: "{why} Loading waits until every server answers. {servers:away}",
    Reason.GATES_PASSED: "{skipped:Passed}.",
    Reason.CHECK_PASSED: "{skipped:Passed}. The version is unloaded again.",
    Reason.COULD_GO_ON: "The rollout of version {version} waits, because Baton is paused. `ctl resume` continues it.",
    Reason.WAITS_FOR_PROMOTION: "Version {version} waits for `ctl promote {version}`: {skipped:passed}.",
    Reason.PERSON_PROMOTED: "A person promoted the version.",
    # Loading a candidate
    Reason.READY_EVERYWHERE: "The version was READY on every server after {took_s:.1f} s (limit {limit_s:.0f} s).",
    Reason.NOT_READY_IN_TIME: "The version was not READY on {late:servers} after {took_s:.0f} s (limit "
    "{limit_s:.0f} s).",
    Reason.NOBODY_LOADS_IT: "{why} {doing} `ctl retry {version}` starts a new rollout.",
    Reason.LOADED_WHERE_ANSWERED: "The version is loaded on every server that answers. {servers:away}",
    Reason.DID_NOT_LOAD: "Version {version} did not load on server {server}. Triton says: {error}",
    Reason.MACHINE_AT_FAULT: _MACHINE,
    Reason.MACHINE_GIVEN_UP: f"{_MACHINE} Baton tried for {{tried_s:.0f}} s. Repair the machine, then run `ctl retry "
    "{version}`.",
    Reason.MACHINE_RESTS: f"{_MACHINE} Baton tries again every {{every_s:.0f}} s, for {{left_s:.0f}} s more.",
    Reason.LEAVING_MEMORY: "Waiting for {versions:versions} to leave memory.",
    # Live traffic
    Reason.SPLITTER_REPORTS: "Waiting for the first report of the splitter on server {server}.",
    Reason.SPLIT_ONCE_ALL_ANSWER: "The traffic split waits until every server answers. {servers:away}",
    Reason.MEETING_BEGINS: "Version {version} begins to receive live requests.",
    Reason.MIRRORED: "Version {version} receives copies of {share:g} % of live requests. Clients do not get its "
    "answers.",
    Reason.SHARE: "Version {version} has {weight:.3g} % of traffic.",
    Reason.JUDGED_BY_GOLDEN: "{doing} It is judged by {count} golden requests, because no live requests arrive.",
    Reason.PAUSE_STEP: "{doing} Step {step} is a pause: `ctl promote {version}` continues the rollout.",
    Reason.PAUSED_ON_ITS_WAY: "{doing} Baton is paused: `ctl resume` continues the rollout.",
    Reason.HOLDING: "{doing} The step waits for evidence: {said}",
    Reason.RENEWING: "Renewing the lease of the traffic split.",
    Reason.LEASE_ENDED: "The lease of the traffic split ended, because the control plane did not renew it for "
    "{away_s:.0f} s. It was not running, or could not write its journal.",
    Reason.SPLITTER_SILENT: "The splitter on server {server} does not answer: {error}",
    Reason.SPLITTER_NOT_PUT: "The alias could not be moved to the splitter on server {server}: {error}",
    Reason.CANDIDATE_LOST: "Version {version} is no longer loaded on server {server}. Triton says: {error}",
    Reason.SHADOW_SKIPPED: "Version {version} was promoted in full, so the rest of the shadow phase is skipped.",
    Reason.SHADOW_OFF: "The configuration no longer has a shadow phase for version {version}.",
    Reason.SHADOW_GOOD: "Version {version} answered its shadow requests well{golden:?. At the end {golden} golden "
    "requests were used, because no live ones arrived|}.",
    Reason.WAY_SKIPPED: "The version was promoted in full, so the remaining traffic steps are skipped.",
    Reason.PAUSE_PASSED: "A person promoted the version past the pause.",
    Reason.PAUSE_GONE: "The configuration no longer has a pause at this step.",
    Reason.MOVES_ONCE_ALL_ANSWER: "The cutover waits until every server answers. {servers:away}",
    Reason.ASKED_ONCE_MORE: "Version {version} must answer a probe on {waiting:servers} before the cutover.",
    Reason.ALIAS_NOT_MOVED: "The alias could not be moved on server {server}. Triton says: {error}",
    Reason.SERVES_WHERE_ANSWERED: "Version {version} serves on every server that answers. {servers:away}",
    # After the cutover
    Reason.KEEPING: "Version {version} serves. Version {previous} stays loaded for an instant rollback {left_s:?for "
    "{left_s:.0f} s more|until `ctl resume`}.{hold:? {hold}|}",
    Reason.KEEPING_NOTHING: "Version {version} serves. Version {previous} is not loaded, so a rollback takes as long "
    "as a load.{hold:? {hold}|}",
    Reason.RELOADING_STANDBY: "Adding version {version} to the version policy again, as standby.",
    Reason.GIVING_UP: "Removing version {version} from the version policy, because it can't be loaded again.",
    Reason.NOTHING_TO_KEEP: "There is no previous version to keep loaded.",
    Reason.NOT_KEPT_GONE_BACK: "Version {version} does not stay loaded, because a person rolled it back.",
    Reason.NOT_KEPT: "Version {version} does not stay loaded, because `keep_previous` is 0.",
    Reason.STANDBY_LOST: "Version {version}, the standby, is no longer loaded.",
    Reason.STANDBY_SUPERSEDED: "Version {version} does not stay loaded, because a newer version arrived.",
    Reason.KEPT: "Version {version} was standby for the configured time.",
    Reason.NOTHING_UNSEEN: "Unloading waits until every server answers. {servers:away}",
    Reason.DONE: "Done.",
    # Ends
    Reason.VERIFIED: "Version {version} was verified: {skipped:passed}. It was not promoted.",
    Reason.BACK_ON: "Version {version} serves again.",
    Reason.ROLLED_BACK: "The rollout was rolled back.",
    Reason.SERVES_ON: "{why} Version {version} keeps serving.",
    Reason.NO_WAY_BACK: "Version {previous} can't be loaded again, so version {version} keeps serving.",
    Reason.ENDED_WITH_REST: "{why} This was not finished in time; Baton continues it: {rest}",
    # Rolling back
    Reason.FOLDER_REMOVED_MEANWHILE: "The folder of version {version} was removed during its rollout.",
    Reason.FOLDER_CHANGED_MEANWHILE: "The folder of version {version} was changed during its rollout{proved:?, so the "
    "verdicts of its gates are void|}.",
    Reason.SUPERSEDED: 'Version {version} arrived and replaces this version (`on_newer = "supersede"`).',
    Reason.OVERTAKEN: "The alias leads to version {alias}, although this rollout of version {version} {moved:?had|had "
    "not} moved it. The journal is older than the files, or somebody edited them. Baton keeps the files.",
    Reason.AWAY: "{servers:away} `ctl abort` ends the rollout at once.",
    Reason.FIRST_GOES: "Version {version} is taken out of service, and there is no earlier version. Clients get no "
    "answers until another version serves.",
    Reason.BRINGING_BACK: "Adding version {version} to the version policy, to load it for the rollback.",
    Reason.BACK_ONCE_ALL_ANSWER: "The rollback to version {version} waits until every server answers. {servers:away}",
    Reason.KEEPING_GOAL: "Adding version {version} to the version policy, because the alias moves back to it.",
    Reason.POINTING_BACK: "Pointing the alias back at version {version}.",
    # A version that does not answer
    Reason.NO_ANSWER: _NO_ANSWER,
    Reason.RELOADING: f"{_NO_ANSWER} Baton is loading it again.",
    Reason.RELOADING_ALONE: f"{_NO_ANSWER} Baton is loading it again, without any other version.",
    Reason.RELOAD_WAITS: f"{_NO_ANSWER} Baton loads it again when the present call has ended.",
    Reason.RELOAD_HELD: f"{_NO_ANSWER} {{hold}}",
    Reason.RELOAD_FAILED: f"{_NO_ANSWER} Loading it again failed: {{failed}} To serve another version, run `ctl "
    "rollback --to N` or `ctl promote N`.",
    Reason.BACK_FROM_SILENT: f"{_NO_ANSWER} Traffic goes back to version {{previous}}.",
    Reason.TAKES_OVER: f"{_NO_ANSWER} Version {{candidate}} has passed its gates and answers, so it takes all traffic.",
    Reason.STABLE_SILENT: f"{_NO_ANSWER} Live traffic can't be compared with it. `ctl retry {{candidate}}` starts a "
    "new rollout.",
    Reason.STUCK_UNLOADING: "Version {version} is stuck UNLOADING on server {server} for {for_s:.0f} s (limit "
    "{limit_s:.0f} s). Triton waits for a request that never ends. Clients and the next rollout are not affected. "
    "{emptied:?Its process has ended and its weights are out of memory, but some threads and shared memory of Triton "
    "stay in use.|Its memory stays in use.} Restart Triton on {server} in a maintenance window: it comes back with the "
    "version that serves.",
    # Versions on disk
    Reason.PRUNING: "Removing version {version} from disk.",
    Reason.PRUNED_ALL: "No further version is to be removed from disk.",
    Reason.PRUNED: "version {version} was removed from disk, which frees {bytes:size}: {who:?asked for by {who}|"
    "retention}, {keep} kept",
    Reason.NOT_PRUNED: "version {version} could not be removed from disk: {error}",
    Reason.STAYS_FOR_ROLLOUT: "The rollout of version {candidate} needs it.",
    Reason.STAYS_LOADED: "{servers:?It is loaded on {servers:servers}|The version policy names it}.",
    Reason.STAYS_UNSEEN: "{servers:silent} Which versions are loaded there is not known.",
    Reason.STAYS_WAY_BACK: "`ctl rollback` goes back to it.",
    Reason.STAYS_ARRIVING: "It is still arriving.",
    Reason.STAYS_WAITING: "Its rollout has not begun.",
    Reason.STAYS_USED: "Links of {versions:versions} lead into it.",
    Reason.STAYS_NEWEST: "It is one of the {keep} newest of the others.",
    # Faults of the control plane
    Reason.TROUBLE: "{error}",
    Reason.DEFECT: "A defect in Baton stops the rollouts of this service. {kind}: {error}",
    Reason.JOURNAL_DAMAGED: "{error}{then:? A new journal can't be started yet: {then}|}",
    Reason.JOURNAL_FAILS: "The journal {path} fails: {error}.",
    Reason.JOURNAL_EMPTY: "The journal {path} is empty, and Baton did not empty it.",
    Reason.JOURNAL_ROW: "The journal {path} is damaged: a row holds a value that Baton does not write ({error}).",
    Reason.JOURNAL_FORMAT: "Another Baton wrote {path}: its format is {found}, not {known}.",
    Reason.JOURNAL_GONE: "The journal {path} was removed or replaced while it was in use. Baton does nothing more. "
    "Clients are not affected.",
    Reason.CONFIG_BROKEN: "{error} Clients are not affected. Baton restores the last good file unless somebody "
    "repairs it first.",
    Reason.RECORDING: "Baton is writing what it found to the journal.",
    # Versions
    Reason.FOUND_SERVING: "Version {version} was found serving, and the journal {standing:?calls it {standing} "
    "({before})|does not say how it came there}. Baton keeps it.",
    Reason.INHERITED: "served before version {alias} according to the files; the journal was lost",
    # Events
    Reason.BEGUN: "{kind} of version {version}: {why}",
    Reason.MOVED_ON: "{before} to {after}{why:?: {why}|}",
    Reason.ENDED: "{outcome}{why:?: {why}|}",
    Reason.VERDICT: "{gate}: {verdict}. {said}",
    Reason.GOES_ON: "version {version} promoted{full:? past its remaining traffic steps|}",
    Reason.HELD_ASKED_AGAIN: "The gates of version {version} that lacked evidence run again.",
    Reason.STARTED_AGAIN: "the control plane was started: missing configuration may be there now",
    Reason.CLOCK_SET_BACK: "the clock was set back",
    Reason.COUNTS_AS_NEW: "version {version} counts as new",
    Reason.PROVED_UNCHANGED: "version {version} was verified as unchanged",
    Reason.LOAD_CALL: "load call: {model} on {server}",
    Reason.LOAD_REFUSED: "load call refused: {model} on {server}: {error}",
    Reason.GATE_ASKED: "gate {gate} checks version {version}",
    Reason.ENGINE_RELOADED: "{model} on {server}: version {version} does not answer and is loaded again",
    Reason.POLICY_WRITTEN: "version policy on disk: [{versions:numbers}]",
    Reason.ALIAS_WRITTEN: "alias on disk: version {version}{split:? behind the splitter|}",
    Reason.SPLITTER_WRITTEN: "splitter on disk: {stable:?stable version {stable}|removed}",
    Reason.FOUND_SILENT: "version {version} does not answer on server {server}, although Triton reports it as READY: "
    "{error}",
    Reason.ANSWERS_AGAIN: "version {version} answers again on server {server}",
    Reason.LOADED_AGAIN: "version {version} was loaded again on server {server}{answers:? and answers|}, after "
    "{took_s:.1f} s",
    Reason.PROCESS_ENDED: "{model} version {version} on server {server}: {why} (process {pid})",
    Reason.PUT_BACK: "restored {what}: {error}",
    Reason.LEASE_LAPSED: "The lease of the traffic split ({lease_s:g} s) ended, because the control plane did not "
    "renew it for {away_s:.0f} s. The stable version served alone meanwhile. The rollout continues.",
    Reason.PUT_ASIDE: "{error} The damaged file was kept as {kept}. Baton adopts the versions that serve.",
    Reason.RESTORED: "The journal was restored from {file}{last:?, whose last entry is of {last}|}. It does not know "
    "what happened since then.",
    Reason.EVENTS_REMOVED: "{count} events were removed because of their age ([control] keep_history, keep_rollouts). "
    "The rollouts themselves are kept.",
    Reason.PAUSED: "Paused: nothing starts or goes on by itself.",
    Reason.RESUMED: "Resumed.",
    Reason.MEMORY_GROWS: "{said}",
    Reason.RUNS_IN_LESS: "Version {version} does not run as configured on server {server} (fallback {fallback}"
    "{runs:?: {runs}|}{asked:? instead of {asked}|}). Make room on that machine and restart its Triton in a "
    "maintenance window, or configure less in the engine's config.pbtxt.",
    # Refusals to a person
    **{reason: f"{said} {means}".rstrip() for reason, (said, means, _) in REFUSALS.items()},
}
"""Every reason has a sentence, and every use of one gives the figures that it names (``tests/unit/reasons``)."""

_WORDS = _Words()


def say(reason: Reason, figures: Mapping[str, Any]) -> str:
    """The sentence for a person."""
    return _WORDS.vformat(SENTENCES[reason], (), figures)


def what_to_do(reason: Reason, figures: Mapping[str, Any]) -> str | None:
    """What a person who was refused can do; None for a reason that refuses nothing."""
    refusal = REFUSALS.get(reason)
    return None if refusal is None else _WORDS.vformat(refusal[-1], (), figures)
