"""Every reason that Baton gives: for what it decides, waits for, refuses and writes down."""

from __future__ import annotations

from enum import StrEnum, auto


class Reason(StrEnum):
    """Values are persisted and part of the API: a reason may be added, and worded anew, but never renamed."""

    OTHER = auto()
    """A sentence without figures: from an earlier Baton, or from another program."""

    # Why a rollout begins

    ADOPTED = auto()
    NEW_VERSION = auto()
    CUT_OFF = auto()
    PROMOTED = auto()
    TRIED_AGAIN = auto()
    VERIFICATION = auto()
    ASKED_BACK = auto()
    ABORTED = auto()
    BEGINS = auto()

    # Without a rollout

    STARTING = auto()
    SERVES = auto()
    SERVED_DIRECTLY = auto()
    NOTHING_SERVES = auto()
    STILL_ARRIVING = auto()
    ARRIVAL_STUCK = auto()
    NO_FOLDER = auto()
    PAUSED_AT_REST = auto()
    ALL_SILENT = auto()
    SOME_SILENT = auto()
    POLICY_WRONG = auto()
    POLICY_LACKS_ALIAS = auto()

    # Why Baton loads nothing

    FOLDER_GONE = auto()
    FOLDER_CHANGED = auto()
    UNEXPECTED_ENTRY = auto()
    DEADLY_ENTRY = auto()

    # Calls to Triton, and files

    LOADING = auto()
    UNLOADING = auto()
    MOVING_ALIAS = auto()
    REMOVING_ALIAS = auto()
    LOADING_SPLITTER = auto()
    REMOVING_SPLITTER = auto()
    WAITS_FOR_RELOAD = auto()
    LAST_TRY_FAILED = auto()
    SPLITTER_REFUSED = auto()
    SPLITTER_NOT_LOADED = auto()
    STUCK = auto()
    STILL_LOADING = auto()
    NOT_READY = auto()
    LAST_REQUESTS = auto()
    LAST_CALLS = auto()
    REQUESTS_WAIT = auto()
    CALL_UNDER_WAY = auto()
    WRITING_POLICY = auto()
    NAMING = auto()
    KEEPING_UNTIL_MOVED = auto()
    POINTING = auto()
    UNSPLITTING = auto()
    SPLITTING = auto()
    WRITING_SPLITTER = auto()
    REMOVING_SPLITTER_FILES = auto()

    # Gates

    GATE_LOOKS = auto()
    GATE_COULD_NOT_LOOK = auto()
    GATE_PASSED = auto()
    GATE_FAILED = auto()
    GATE_HOLDS = auto()
    GATE_AGAIN = auto()
    NO_EVIDENCE = auto()
    UNJUDGED = auto()
    FILES_PROVED = auto()
    FILES_PROVED_ROOM_UNKNOWN = auto()
    LOADS_ONCE_ALL_ANSWER = auto()
    GATES_PASSED = auto()
    CHECK_PASSED = auto()
    COULD_GO_ON = auto()
    WAITS_FOR_PROMOTION = auto()
    PERSON_PROMOTED = auto()

    # Loading a candidate

    READY_EVERYWHERE = auto()
    NOT_READY_IN_TIME = auto()
    NOBODY_LOADS_IT = auto()
    LOADED_WHERE_ANSWERED = auto()
    DID_NOT_LOAD = auto()
    MACHINE_AT_FAULT = auto()
    MACHINE_GIVEN_UP = auto()
    MACHINE_RESTS = auto()
    LEAVING_MEMORY = auto()

    # Live traffic

    SPLITTER_REPORTS = auto()
    SPLIT_ONCE_ALL_ANSWER = auto()
    MEETING_BEGINS = auto()
    MIRRORED = auto()
    SHARE = auto()
    JUDGED_BY_GOLDEN = auto()
    PAUSE_STEP = auto()
    PAUSED_ON_ITS_WAY = auto()
    HOLDING = auto()
    RENEWING = auto()
    LEASE_ENDED = auto()
    SPLITTER_SILENT = auto()
    SPLITTER_NOT_PUT = auto()
    CANDIDATE_LOST = auto()
    SHADOW_SKIPPED = auto()
    SHADOW_OFF = auto()
    SHADOW_GOOD = auto()
    WAY_SKIPPED = auto()
    PAUSE_PASSED = auto()
    PAUSE_GONE = auto()
    MOVES_ONCE_ALL_ANSWER = auto()
    ASKED_ONCE_MORE = auto()
    ALIAS_NOT_MOVED = auto()
    SERVES_WHERE_ANSWERED = auto()

    # After the cutover

    KEEPING = auto()
    KEEPING_NOTHING = auto()
    RELOADING_STANDBY = auto()
    GIVING_UP = auto()
    NOTHING_TO_KEEP = auto()
    NOT_KEPT_GONE_BACK = auto()
    NOT_KEPT = auto()
    STANDBY_LOST = auto()
    STANDBY_SUPERSEDED = auto()
    KEPT = auto()
    NOTHING_UNSEEN = auto()
    DONE = auto()

    # Ends

    VERIFIED = auto()
    BACK_ON = auto()
    ROLLED_BACK = auto()
    SERVES_ON = auto()
    NO_WAY_BACK = auto()
    ENDED_WITH_REST = auto()

    # Rolling back

    FOLDER_REMOVED_MEANWHILE = auto()
    FOLDER_CHANGED_MEANWHILE = auto()
    SUPERSEDED = auto()
    OVERTAKEN = auto()
    AWAY = auto()
    FIRST_GOES = auto()
    BRINGING_BACK = auto()
    BACK_ONCE_ALL_ANSWER = auto()
    KEEPING_GOAL = auto()
    POINTING_BACK = auto()

    # A version that does not answer

    NO_ANSWER = auto()
    RELOADING = auto()
    RELOADING_ALONE = auto()
    RELOAD_WAITS = auto()
    RELOAD_HELD = auto()
    RELOAD_FAILED = auto()
    BACK_FROM_SILENT = auto()
    TAKES_OVER = auto()
    STABLE_SILENT = auto()
    STUCK_UNLOADING = auto()

    # Versions on disk

    PRUNING = auto()
    PRUNED_ALL = auto()
    PRUNED = auto()
    NOT_PRUNED = auto()
    STAYS_FOR_ROLLOUT = auto()
    STAYS_LOADED = auto()
    STAYS_UNSEEN = auto()
    STAYS_WAY_BACK = auto()
    STAYS_ARRIVING = auto()
    STAYS_WAITING = auto()
    STAYS_USED = auto()
    STAYS_NEWEST = auto()
    WAS_PRUNED = auto()
    NO_KEEP = auto()

    # Faults of the control plane

    TROUBLE = auto()
    DEFECT = auto()
    JOURNAL_DAMAGED = auto()
    JOURNAL_FAILS = auto()
    JOURNAL_EMPTY = auto()
    JOURNAL_ROW = auto()
    JOURNAL_FORMAT = auto()
    JOURNAL_GONE = auto()
    CONFIG_BROKEN = auto()
    RECORDING = auto()

    # Versions

    FOUND_SERVING = auto()
    INHERITED = auto()

    # Events

    BEGUN = auto()
    MOVED_ON = auto()
    ENDED = auto()
    VERDICT = auto()
    GOES_ON = auto()
    HELD_ASKED_AGAIN = auto()
    STARTED_AGAIN = auto()
    CLOCK_SET_BACK = auto()
    COUNTS_AS_NEW = auto()
    PROVED_UNCHANGED = auto()
    LOAD_CALL = auto()
    LOAD_REFUSED = auto()
    GATE_ASKED = auto()
    ENGINE_RELOADED = auto()
    POLICY_WRITTEN = auto()
    ALIAS_WRITTEN = auto()
    SPLITTER_WRITTEN = auto()
    FOUND_SILENT = auto()
    ANSWERS_AGAIN = auto()
    LOADED_AGAIN = auto()
    PROCESS_ENDED = auto()
    PUT_BACK = auto()
    LEASE_LAPSED = auto()
    PUT_ASIDE = auto()
    RESTORED = auto()
    EVENTS_REMOVED = auto()
    PAUSED = auto()
    RESUMED = auto()
    MEMORY_GROWS = auto()
    RUNS_IN_LESS = auto()

    # Refusals to a person

    JUST_STARTED = auto()
    NO_ROLLOUT = auto()
    NONE_UNDER_WAY = auto()
    UNDER_WAY = auto()
    BUSY = auto()
    ON_ITS_WAY_BACK = auto()
    SERVES_ALREADY = auto()
    NOT_PROMOTED = auto()
    NONE_EARLIER = auto()
    NONE_KNOWN_EARLIER = auto()
    NOT_WHOLE = auto()
    NEVER_SERVED = auto()
    NOT_AS_SERVED = auto()
    NOTHING_TO_RETRY = auto()
    JUDGED_AS = auto()
    GATES_BEHIND = auto()
    NOTHING_NEW = auto()
    NO_SUCH_FOLDER = auto()
    ARRIVING = auto()
    LOWER = auto()
    WAS_REFUSED = auto()
    LIVE_FOLDER_GONE = auto()
    UNCHANGED = auto()
    NOT_RECORDED = auto()
    DIFFERS = auto()
