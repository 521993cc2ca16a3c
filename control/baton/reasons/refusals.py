"""What a person is refused: for each reason what happened, what it means for clients, and what to do.

The first two are the error's message, the last its ``mend``. Formats are those of :mod:`baton.reasons.words`.
"""

from __future__ import annotations

from collections.abc import Mapping

from baton.reasons.reason import Reason

_KEPT = "Nothing was changed."
_NO_LOADS = "Clients are not affected, but Baton loads nothing meanwhile."
_LISTS = "`ctl versions` lists what is on disk."
_WAIT_OR_ABORT = "Wait for its end, or `ctl abort` it."

REFUSALS: Mapping[Reason, tuple[str, str, str]] = {
    Reason.JUST_STARTED: (
        "The control plane has only just started, and has not looked at Triton yet.", _KEPT, "Try again in a moment.",
    ),
    Reason.NO_ROLLOUT: ("There is no rollout {number}.", "", "`ctl history` lists them."),
    Reason.NONE_UNDER_WAY: (
        "No rollout of {service} is under way.", _KEPT, "`ctl rollback` goes back to the version that served before.",
    ),
    Reason.UNDER_WAY: ("A rollout of {service} is under way.", _KEPT, _WAIT_OR_ABORT),
    Reason.BUSY: ("A {kind} of version {version} is under way ({phase}).", _KEPT, _WAIT_OR_ABORT),
    Reason.ON_ITS_WAY_BACK: (
        "Version {version} is being rolled back: {why:bare}.", _KEPT,
        "When that has ended, `ctl retry {version}` starts a new rollout.",
    ),
    Reason.SERVES_ALREADY: ("Version {version} serves already.", _KEPT, "`ctl versions` lists the others."),
    Reason.NOT_PROMOTED: (
        "Version {version} was not promoted, because gate {gate} does not have enough evidence. {said}", _KEPT,
        "`ctl retry {version}` runs the gate again, `ctl abort` ends the rollout.",
    ),
    Reason.NONE_EARLIER: ("There is no earlier version to roll back to.", _KEPT, "`ctl abort` ends this rollout."),
    Reason.NONE_KNOWN_EARLIER: (
        "The journal knows no earlier version that served.", _KEPT,
        (
            "{lower:?On disk are {lower:numbers}: name one with --to.|No lower one is on disk: `ctl push DIR` brings "
            "it back as a new version.}"
        ),
    ),
    Reason.NOT_WHOLE: ("Version {version} is not on disk, or not complete.", _KEPT, _LISTS),
    Reason.NEVER_SERVED: (
        "Version {version} has never served.", _KEPT,
        (
            "{higher:?`ctl promote {version}` starts its rollout|Its gates are asked when `ctl push DIR` brings its "
            "checkpoint again, under a new number}."
        ),
    ),
    Reason.NOT_AS_SERVED: (
        (
            "Version {version} is not what served under that number: {file:?{file} is not as it was|its folder is "
            "another one, whose files no gate has seen}{more:? (and {more} more)|}."
        ),
        _KEPT,
        (
            "Put its files back as they were, or name another with --to. `ctl rollback --to {version} --changed` loads "
            "it as it is."
        ),
    ),
    Reason.NOTHING_TO_RETRY: (
        "No version of {service} was refused or withdrawn.", _KEPT, f"`ctl promote N` starts a rollout. {_LISTS}",
    ),
    Reason.JUDGED_AS: (
        "Version {version} is being judged as {release}.", _KEPT,
        "`ctl abort`, then `ctl retry {version} --release {asked}`.",
    ),
    Reason.GATES_BEHIND: (
        "Version {version} serves, so it has passed its gates.", _KEPT, "`ctl history` shows what they measured.",
    ),
    Reason.NOTHING_NEW: ("No new version is complete on disk.", _KEPT, f"`ctl push DIR` brings one. {_LISTS}"),
    Reason.NO_SUCH_FOLDER: ("There is no folder of version {version}.", _KEPT, _LISTS),
    Reason.WAS_PRUNED: (
        "Version {version} is no longer on disk: Baton removed it on {at} to make room.", _KEPT,
        "`ctl push DIR` brings its checkpoint again, under a new number.",
    ),
    Reason.NO_KEEP: (
        "How many versions of {service} are to stay on disk is not known.", _KEPT,
        "Say it with --keep N (0 or more), or set keep_versions in [services.rollout].",
    ),
    Reason.ARRIVING: (
        "Version {version} is still arriving. Missing: {lacks}.", _KEPT,
        "Try again when it is complete. If its copy was interrupted, copy it again.",
    ),
    Reason.LOWER: (
        "Version {version} is lower than version {serves}, which serves.", _KEPT,
        "`ctl rollback --to {version}` goes back.",
    ),
    Reason.WAS_REFUSED: (
        "Version {version} was refused: {why:bare}.", _KEPT, "`ctl retry {version}` tries again.",
    ),
    Reason.LIVE_FOLDER_GONE: (
        "The folder of version {version}, which serves, is gone.", _NO_LOADS, "Put the folder back, then try again.",
    ),
    Reason.UNCHANGED: (
        "Version {version} serves, and its folder is as it was when it was loaded.", _KEPT,
        "`ctl status` says what the service waits for, if anything.",
    ),
    Reason.NOT_RECORDED: (
        "Baton did not record what version {version} held when it was loaded, so it can't verify it.", _NO_LOADS,
        "Push the content as a new version, or restart Triton in a maintenance window.",
    ),
    Reason.DIFFERS: (
        "Version {version}: {file} {more:?and {more} more differ|differs} from what was loaded.", _NO_LOADS,
        "Restore the files as they were, or push the new content as a new version.",
    ),
}  # fmt: skip
