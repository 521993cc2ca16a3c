"""``python -m tests.chaos.page`` prints the table of faults of docs/reference/faults.md, which a test compares."""

from __future__ import annotations

from tests.chaos.fault import PHASES
from tests.chaos.faults import FAULTS


def catalogue() -> str:
    """Each fault, what it does, in which phases, and until when requests may fail."""
    lines = ["| fault | what is done | phases | requests may fail |", "| --- | --- | --- | --- |"]
    for fault in FAULTS:
        where = "all" if fault.phases == PHASES else ", ".join(f"`{phase}`" for phase in fault.phases)
        root = "; needs root" if fault.disks else ""
        lines.append(f"| {fault.name} | {fault.does}{root} | {where} | {fault.fails or 'never'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(catalogue(), end="")
