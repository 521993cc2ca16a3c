"""The sentence of each reason: the only place in which they are worded.

A template names the figures of its reason. Beside the formats of Python it knows a few of its own (:class:`_Words`).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from baton.reasons.reason import Reason


def named(versions: Iterable[int]) -> str:
    """``version 2``, ``versions 1 and 2`` or ``no version``."""
    listed = [str(v) for v in sorted(versions)]
    return f"version{'s' if len(listed) > 1 else ''} {' and '.join(listed)}" if listed else "no version"


def _silent(servers: Iterable[tuple[str, str]]) -> str:
    """The servers that do not answer, each with the cause: one that refuses Baton's key is not away."""
    return " ".join(f"Server {name}: {cause or 'it does not answer.'}" for name, cause in servers)


def _away(servers: tuple[tuple[str, str], ...]) -> str:
    it = "it" if len(servers) == 1 else "them"
    return (
        f"{_silent(servers)} Bring {it} back, or take {it} out of [[servers]] and restart the control plane: what a "
        f"server that is away holds is not known."
    )


def _passed(skipped: tuple[str, ...]) -> str:
    """Of a gate that was skipped it may not be said that it passed."""
    return f"every gate passed but those that were skipped ({', '.join(skipped)})" if skipped else "every gate passed"


def _bare(why: Any) -> str:
    """As the beginning of a longer sentence."""
    return str(why).rstrip(".")


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "versions": named,
    "Versions": lambda versions: named(versions).capitalize(),
    "silent": _silent,
    "away": _away,
    "passed": _passed,
    "Passed": lambda skipped: _passed(skipped).capitalize(),
    "bare": _bare,
    "list": ", ".join,
    "numbers": lambda versions: ", ".join(map(str, versions)),
    "on": lambda server: f" (server {server})." if server else "",
}
"""``{servers:away}`` and the like. ``on``: a call that is made has its server, and ends the sentence."""


class _Words(string.Formatter):
    """Adds :data:`FORMATS`, and ``{figure:?text|other}``: the text where the figure is true, else the other.

    The text may name figures, the other may not. A figure that is not there counts as None: what an earlier Baton wrote
    down may lack one.
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


_NO_ANSWER = "Version {version} does not answer on server {server} although Triton calls it READY ({error:bare})"
_MACHINE = "Server {server} can't load version {version}, and the version is not at fault. Triton says: {error}"
_SPLITTER = "Loading the splitter; the last try on server {server} failed: {error}"

SENTENCES: Mapping[Reason, str] = {
    Reason.OTHER: "{text}",
    # What a rollout begins for
    Reason.ADOPTED: "Triton serves it already, without an alias in front",
    Reason.NEW_VERSION: "a new version folder is complete",
    Reason.CUT_OFF: "a new version folder is there, cut off, and nothing more of it arrives",
    Reason.PROMOTED: "promoted",
    Reason.TRIED_AGAIN: "tried again{release:?, declared {release}|}",
    Reason.VERIFICATION: "verification",
    Reason.ASKED_BACK: "rolled back by {who}",
    Reason.ABORTED: "aborted by {who}",
    Reason.BEGINS: "Version {version}: {why}.",
    # At rest
    Reason.STARTING: "Starting.",
    Reason.SERVES: "Version {version} serves.",
    Reason.SERVED_DIRECTLY: "No alias leads to a version, and clients reach {versions:versions} without it.",
    Reason.NOTHING_SERVES: "No version serves{ever:?| yet}.",
    Reason.STILL_ARRIVING: "{serving:bare}; version {version} is still arriving, lacking {lacks}{more:? and {more} "
    "more|}.",
    Reason.ARRIVAL_STUCK: "{serving:bare}; version {version} is stuck: nothing in it changed for a long time, and it "
    "lacks {lacks}{more:? and {more} more|}.",
    Reason.NO_FOLDER: "{serving:bare}: drop a version folder into the engine's directory, or use `ctl push`.",
    Reason.PAUSED_AT_REST: "{standing} Paused: nothing starts by itself until `ctl resume`.",
    Reason.ALL_SILENT: "{servers:silent} Nothing is decided until it answers.",
    Reason.SOME_SILENT: "{servers:silent} {serves:?Version {serves} serves on the others.|No version serves.}",
    Reason.POLICY_WRONG: "The version policy names {versions:versions} while version {serves} serves; it is put right.",
    Reason.POLICY_LACKS_ALIAS: "The alias points at version {version}, which the engine's version policy does "
    "not name. Run `ctl promote N` or `ctl rollback --to N` with a version that can serve.",
    # What keeps Baton from loading anything
    Reason.FOLDER_GONE: "The folder of version {version} is gone while it serves; a load call now would take it out of "
    "traffic. Put the folder back: once it is proved to hold what serves, Baton goes on by itself.",
    Reason.FOLDER_CHANGED: "The folder of version {version} was changed while it serves; a load call now would reload "
    "it. Restore the files: once they are proved to be what serves, Baton goes on by itself (`ctl retry {version}` "
    "says what differs).",
    Reason.UNEXPECTED_ENTRY: "{name!r} appeared beside the version folders, and Triton would reload every version in "
    "the next load call. {problem} Until then nothing is loaded; live traffic is not touched.",
    # Calls to Triton, and files
    Reason.LOADING: "Loading version {version}{server:on}",
    Reason.UNLOADING: "Unloading {versions:versions}{server:on}",
    Reason.MOVING_ALIAS: "Moving the alias to {split:?the splitter before |}version {version}{server:on}",
    Reason.REMOVING_ALIAS: "Taking the alias away{server:on}",
    Reason.LOADING_SPLITTER: "Loading the splitter{server:on}",
    Reason.REMOVING_SPLITTER: "Taking the splitter out{server:on}",
    Reason.WAITS_FOR_RELOAD: "{doing}: waiting for server {server}, which loads its version again.",
    Reason.LAST_TRY_FAILED: "{doing}; the last try on server {server} failed: {error}",
    Reason.SPLITTER_REFUSED: f"{_SPLITTER} Triton needs the backend `splitter` beside its own; with `steps = []` and "
    "no shadow it is not used.",
    Reason.SPLITTER_NOT_LOADED: f"{_SPLITTER} If that goes on, restart Triton on {{server}}: it comes back with "
    "version {stable}.",
    Reason.STUCK: "{doing:bare}. That has failed for {for_s:.0f} s (limit {limit_s:.0f} s), with: {error}{retry:? `ctl "
    "retry {retry}` begins anew.|}",
    Reason.STILL_LOADING: "{versions:Versions} is still loading on server {server}, which takes no other load call "
    "until that ends. {serves:?Version {serves} serves on. |}If it hangs, restart Triton on {server}: it comes back "
    "with {keep:versions}.",
    Reason.NOT_READY: "Version {version} is not READY on server {server}.",
    Reason.LAST_REQUESTS: "{versions:versions} finishes its last requests on server {server}.",
    Reason.LAST_CALLS: "Waiting for the last calls of version {version} on server {server}.",
    Reason.REQUESTS_WAIT: "{count} requests still wait for version {version} on server {server}.",
    Reason.CALL_UNDER_WAY: "A load call is under way on server {server}; the alias goes back to {version} after it.",
    Reason.WRITING_POLICY: "Writing the version policy {versions:versions}.",
    Reason.NAMING: "Naming version {version} in the version policy.",
    Reason.KEEPING_UNTIL_MOVED: "Keeping {versions:versions} until the alias moved.",
    Reason.POINTING: "Pointing the alias at version {version}.",
    Reason.UNSPLITTING: "Pointing the alias at version {version} alone.",
    Reason.SPLITTING: "Putting the splitter before version {version}.",
    Reason.WRITING_SPLITTER: "Writing the splitter's files for version {version}.",
    Reason.REMOVING_SPLITTER_FILES: "Taking the splitter's files away.",
    # Gates
    Reason.GATE_LOOKS: "Gate {gate} looks at version {version}.",
    Reason.GATE_COULD_NOT_LOOK: "Gate {gate} could not look at version {version}, and tries again: {error}",
    Reason.GATE_PASSED: "{said}",
    Reason.GATE_FAILED: "{said}",
    Reason.GATE_HOLDS: "Gate {gate} holds: {said}",
    Reason.GATE_AGAIN: "Gate {gate} is asked again{said:?: {said}|.}",
    Reason.NO_EVIDENCE: "Gate {gate} has not enough evidence{tries:? after {tries} tries|}: {said}",
    Reason.UNJUDGED: "Version {version} waits, {previous:?version {previous} serves on|no client is sent to it}: gate "
    "{gate} has not enough evidence. {said} `ctl retry {version}` asks it again, `ctl abort` ends the rollout.",
    Reason.FILES_PROVED: "The files are whole, fit, and there is room.",
    Reason.FILES_PROVED_ROOM_UNKNOWN: "The files are whole and fit; whether there is room for them could not be told.",
    Reason.LOADS_ONCE_ALL_ANSWER: "{why} It is loaded once every server answers. {servers:away}",
    Reason.GATES_PASSED: "{skipped:Passed}.",
    Reason.CHECK_PASSED: "{skipped:Passed}; it is taken out again.",
    Reason.COULD_GO_ON: "Version {version} could go on, but Baton is paused: `ctl resume` goes on.",
    Reason.WAITS_FOR_PROMOTION: "Version {version} waits for `ctl promote {version}`: {skipped:passed}.",
    Reason.PERSON_PROMOTED: "A person promoted it.",
    # Loading a candidate
    Reason.READY_EVERYWHERE: "READY on every server after {took_s:.1f} s (limit {limit_s:.0f} s).",
    Reason.NOT_READY_IN_TIME: "Not READY on {late:list} after {took_s:.0f} s (limit {limit_s:.0f} s).",
    Reason.NOBODY_LOADS_IT: "{why} {doing} `ctl retry {version}` begins anew.",
    Reason.LOADED_WHERE_ANSWERED: "It is loaded where Triton answers. {servers:away}",
    Reason.DID_NOT_LOAD: "Version {version} did not load on server {server}. Triton says: {error}",
    Reason.MACHINE_AT_FAULT: _MACHINE,
    Reason.MACHINE_GIVEN_UP: f"{_MACHINE} It was tried for {{tried_s:.0f}} s; `ctl retry {{version}}` begins anew once "
    "that is mended.",
    Reason.MACHINE_RESTS: f"{_MACHINE} It is tried again every {{every_s:.0f}} s, for {{left_s:.0f}} s more.",
    Reason.LEAVING_MEMORY: "Waiting until {versions:versions} has left memory.",
    # Live traffic comes
    Reason.SPLITTER_REPORTS: "The splitter on server {server} is loaded; waiting for its report.",
    Reason.SPLIT_ONCE_ALL_ANSWER: "Traffic is split once every server answers. {servers:away}",
    Reason.MEETING_BEGINS: "From now on live requests meet version {version}.",
    Reason.MIRRORED: "{share:g} % of live requests are mirrored to version {version}; it answers no client.",
    Reason.SHARE: "Version {version} has {weight:.3g} % of traffic.",
    Reason.JUDGED_BY_GOLDEN: "{doing} No live requests come; it is judged by {count} golden ones in their place.",
    Reason.PAUSE_STEP: "{doing} Step {step} is a pause: `ctl promote {version}` goes on.",
    Reason.PAUSED_ON_ITS_WAY: "{doing} Baton is paused: `ctl resume` goes on.",
    Reason.HOLDING: "{doing} Holding: {said}",
    Reason.RENEWING: "Renewing the lease of the split.",
    Reason.LEASE_ENDED: "Nobody renewed the lease of the split for {away_s:.0f} s (the control plane was away, or "
    "could not write its journal), and it ended.",
    Reason.SPLITTER_SILENT: "The splitter on server {server} does not answer: {error}",
    Reason.SPLITTER_NOT_PUT: "The splitter can't stand behind the alias on server {server}: {error}",
    Reason.CANDIDATE_LOST: "Version {version} is lost on server {server}. Triton says: {error}",
    Reason.SHADOW_SKIPPED: "Version {version} is promoted in full: what was left of the shadow is skipped.",
    Reason.SHADOW_OFF: "No requests are mirrored to version {version} any more: so it is configured now.",
    Reason.SHADOW_GOOD: "Version {version} answered mirrored requests well{golden:?, in the end {golden} golden ones "
    "for want of live ones|}.",
    Reason.WAY_SKIPPED: "The rest of its way is skipped.",
    Reason.PAUSE_PASSED: "A person let it go past the pause.",
    Reason.PAUSE_GONE: "Its way has no pause here any more: so it is configured now.",
    Reason.MOVES_ONCE_ALL_ANSWER: "All traffic moves once every server answers. {servers:away}",
    Reason.ASKED_ONCE_MORE: "Version {version} is asked once more on server {waiting:list} before all traffic moves.",
    Reason.ALIAS_NOT_MOVED: "The alias could not be moved on server {server}. Triton says: {error}",
    Reason.SERVES_WHERE_ANSWERED: "Version {version} serves where Triton answers. {servers:away}",
    # After the cutover
    Reason.KEEPING: "Version {version} serves; version {previous} stays loaded for an instant way back {left_s:?for "
    "{left_s:.0f} s more|until `ctl resume`}.{hold:? {hold}|}",
    Reason.KEEPING_NOTHING: "Version {version} serves; version {previous} is not loaded, so the way back takes as long "
    "as a load.{hold:? {hold}|}",
    Reason.RELOADING_STANDBY: "Keeping version {version} for an instant way back.",
    Reason.GIVING_UP: "Giving up on {version}.",
    Reason.NOTHING_TO_KEEP: "There is nothing to keep.",
    Reason.NOT_KEPT_GONE_BACK: "Version {version} is not kept: a person went back from it.",
    Reason.NOT_KEPT: "Version {version} is not kept: keep_previous is 0.",
    Reason.STANDBY_LOST: "Version {version}, which was to be kept for an instant way back, is not loaded any more.",
    Reason.STANDBY_SUPERSEDED: "Version {version} is kept no longer: a newer version arrived, and supersedes it.",
    Reason.KEPT: "Version {version} was kept for its time.",
    Reason.NOTHING_UNSEEN: "Nothing is dropped unseen. {servers:away}",
    Reason.DONE: "Done.",
    # Ends
    Reason.VERIFIED: "Version {version}: {skipped:passed}; nothing was promoted.",
    Reason.BACK_ON: "Back on version {version}.",
    Reason.ROLLED_BACK: "Rolled back.",
    Reason.SERVES_ON: "{why} Version {version} serves on.",
    Reason.NO_WAY_BACK: "Version {previous} can't be brought back; version {version} serves on.",
    Reason.ENDED_WITH_REST: "{why} Not done in time, and still tried: {rest}",
    # Turning back
    Reason.FOLDER_REMOVED_MEANWHILE: "The folder of version {version} was removed meanwhile.",
    Reason.FOLDER_CHANGED_MEANWHILE: "The folder of version {version} was changed meanwhile{proved:?; what was proved "
    "no longer holds|}.",
    Reason.SUPERSEDED: "Version {version} arrived, and newer versions supersede older ones here.",
    Reason.OVERTAKEN: "The alias leads to version {alias}, though this rollout of version {version} had{moved:?| "
    "not} moved it: the journal is older than the files, or they were edited. They stand.",
    Reason.AWAY: "{servers:away} Until then `ctl abort` turns it back.",
    Reason.FIRST_GOES: "Version {version} goes; there is none to go back to.",
    Reason.BRINGING_BACK: "Bringing version {version} back first.",
    Reason.BACK_ONCE_ALL_ANSWER: "Version {version} is brought back first. {servers:away}",
    Reason.KEEPING_GOAL: "Keeping version {version}, which the alias goes back to.",
    Reason.POINTING_BACK: "Pointing the alias back at version {version}.",
    # A version that does not answer
    Reason.NO_ANSWER: _NO_ANSWER,
    Reason.RELOADING: f"{_NO_ANSWER}; loading it again.",
    Reason.RELOADING_ALONE: f"{_NO_ANSWER}; loading it again, alone.",
    Reason.RELOAD_WAITS: f"{_NO_ANSWER}; it is loaded again when what is under way has ended.",
    Reason.RELOAD_HELD: f"{_NO_ANSWER}. {{hold}}",
    Reason.RELOAD_FAILED: f"{_NO_ANSWER}; loading it again failed: {{failed}} `ctl rollback --to N` or `ctl promote N` "
    "brings another version.",
    Reason.BACK_FROM_SILENT: f"{_NO_ANSWER}; back to version {{previous}}.",
    Reason.TAKES_OVER: f"{_NO_ANSWER}. Version {{candidate}} passed its gates and answers, and takes all traffic.",
    Reason.STABLE_SILENT: f"{_NO_ANSWER}, and live traffic can't be compared with it; `ctl retry {{candidate}}` begins "
    "anew.",
    Reason.STUCK_UNLOADING: "Version {version} is stuck UNLOADING on server {server} for {for_s:.0f} s (limit "
    "{limit_s:.0f}): Triton waits for a request that will never end. Clients are not affected, and the next rollout "
    "does not wait for it. {emptied:?Its process has ended and the memory of its weights is free; some threads and "
    "shared memory of Triton's stay in use.|Its memory stays in use.} Restart Triton on {server} in a maintenance "
    "window; it comes back with what serves.",
    # What the control plane itself meets
    Reason.TROUBLE: "{error}",
    Reason.DEFECT: "A defect of Baton stops this service's rollouts: {kind}: {error}",
    Reason.JOURNAL_DAMAGED: "{error}{then:? Another one can't be begun yet: {then}|}",
    Reason.JOURNAL_FAILS: "The journal {path} fails: {error}.",
    Reason.JOURNAL_EMPTY: "The journal {path} is empty. Baton did not leave it so.",
    Reason.JOURNAL_ROW: "The journal {path} is damaged: a row holds what Baton never wrote ({error}).",
    Reason.JOURNAL_FORMAT: "Another Baton wrote {path}: its format is {found}, not {known}.",
    Reason.JOURNAL_GONE: "The journal {path} was removed or replaced while it was in use. Baton does nothing more; "
    "Triton serves on.",
    Reason.CONFIG_BROKEN: "{error} Clients are not affected. Baton restores the file, unless it is mended first.",
    Reason.RECORDING: "What was found is being written to the journal.",
    # Versions
    Reason.FOUND_SERVING: "Version {version} was found serving, and the journal {standing:?calls it {standing} "
    "({before})|does not know how it came to}. It is taken as it is.",
    Reason.INHERITED: "served before version {alias}, as far as the files tell; the journal was lost",
    # Events
    Reason.BEGUN: "{kind} of version {version}: {why}",
    Reason.MOVED_ON: "{before} to {after}: {why}",
    Reason.ENDED: "{outcome}: {why}",
    Reason.VERDICT: "{gate}: {verdict}. {said}",
    Reason.GOES_ON: "version {version} promoted{full:? past its remaining traffic steps|}",
    Reason.HELD_ASKED_AGAIN: "The gates of version {version} that held are asked again.",
    Reason.STARTED_AGAIN: "the control plane was started: what was missing may be configured now",
    Reason.CLOCK_SET_BACK: "the clock was set back",
    Reason.COUNTS_AS_NEW: "version {version} counts as new",
    Reason.PROVED_UNCHANGED: "version {version} proved unchanged",
    Reason.LOAD_CALL: "load call: {model} on {server}",
    Reason.LOAD_REFUSED: "load call refused: {model} on {server}: {error}",
    Reason.GATE_ASKED: "gate {gate} about version {version}",
    Reason.ENGINE_RELOADED: "{model} on {server}: version {version} does not answer",
    Reason.POLICY_WRITTEN: "version policy on disk: [{versions:numbers}]",
    Reason.ALIAS_WRITTEN: "alias on disk: version {version}{split:? by way of the splitter|}",
    Reason.SPLITTER_WRITTEN: "splitter on disk: {stable:?stable version {stable}|removed}",
    Reason.FOUND_SILENT: "version {version} does not answer on server {server} although Triton calls it READY: {error}",
    Reason.ANSWERS_AGAIN: "version {version} answers on server {server}",
    Reason.LOADED_AGAIN: "version {version} was loaded again on server {server}{answers:? and answers|}, after "
    "{took_s:.1f} s",
    Reason.PROCESS_ENDED: "{model} version {version} on server {server}: {why} (process {pid})",
    Reason.PUT_BACK: "put back {what}: {error}",
    Reason.LEASE_LAPSED: "nobody renewed the lease of {lease_s:g} s for {away_s:.0f} s (the control plane was away, or "
    "could not write its journal): the stable version served alone meanwhile. The rollout goes on",
    Reason.PUT_ASIDE: "{error} It was put aside as {kept}; what serves is adopted.",
    Reason.RESTORED: "The journal was put back from {file}{last:?, whose last entry is of {last}|}. What happened "
    "since then is not known to it.",
    Reason.EVENTS_REMOVED: "{count} events were removed because of their age ([control] keep_history, keep_rollouts). "
    "The rollouts themselves are kept.",
    Reason.PAUSED: "Paused: nothing goes on by itself.",
    Reason.RESUMED: "Resumed.",
    Reason.MEMORY_GROWS: "{said}",
    Reason.RUNS_IN_LESS: "On server {server} version {version} runs in {runs:?{runs}|less}, though {asked:?{asked} was "
    "asked for|something else was asked for} (fallback {fallback}). Make room on that machine and restart its Triton "
    "in a quiet hour; or ask for less in the engine's config.pbtxt.",
    # What is refused to persons
    Reason.JUST_STARTED: "The control plane has only just started.",
    Reason.NO_ROLLOUT: "There is no rollout {number}.",
    Reason.NONE_UNDER_WAY: "No rollout of {service} is under way.",
    Reason.UNDER_WAY: "A rollout of {service} is under way.",
    Reason.BUSY: "A {kind} of version {version} is under way ({phase}).",
    Reason.ON_ITS_WAY_BACK: "Version {version} is on its way back: {why}",
    Reason.SERVES_ALREADY: "Version {version} serves already.",
    Reason.NOT_PROMOTED: "Version {version} is not promoted: gate {gate} has not enough evidence. {said}",
    Reason.NONE_EARLIER: "There is no earlier version to go back to.",
    Reason.NONE_KNOWN_EARLIER: "No earlier version is known to have served.",
    Reason.NOT_WHOLE: "Version {version} is not on disk, or not whole.",
    Reason.NEVER_SERVED: "Version {version} never served.",
    Reason.NOTHING_TO_RETRY: "No version of {service} was refused or withdrawn.",
    Reason.JUDGED_AS: "Version {version} is being judged as {release}.",
    Reason.GATES_BEHIND: "Version {version} serves: its gates are behind it.",
    Reason.NOTHING_NEW: "No new version is complete on disk.",
    Reason.NO_SUCH_FOLDER: "There is no folder of version {version}.",
    Reason.ARRIVING: "Version {version} is still arriving: {lacks}.",
    Reason.LOWER: "Version {version} is lower than version {serves}, which serves.",
    Reason.WAS_REFUSED: "Version {version} was refused: {why}",
    Reason.LIVE_FOLDER_GONE: "The folder of version {version} is gone.",
    Reason.UNCHANGED: "Version {version} serves, and its folder is as it was loaded.",
    Reason.NOT_RECORDED: "What version {version} held when it was loaded was not recorded, so nothing can be proved.",
    Reason.DIFFERS: "Version {version}: {file} {more:?and {more} more differ|differs} from what serves.",
}
"""Every reason has a sentence, and every use of one gives the figures that it names (``tests/unit/reasons``)."""

_WORDS = _Words()


def say(reason: Reason, figures: Mapping[str, Any]) -> str:
    """The sentence for a person."""
    return _WORDS.vformat(SENTENCES[reason], (), figures)
