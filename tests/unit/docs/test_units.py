"""The units that docs/how-to/systemd.md shows are what systemd takes, and say what the pages rely on."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.control_plane import CTL
from tests.support.guides import section

UNITS = [step for step in section("how-to/systemd.md") if step.file.endswith(".service")]


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text.replace("\\\n", " "))
    return unit


def test_what_they_rely_on() -> None:
    units = {Path(step.file).stem: parsed(step.text) for step in UNITS}
    assert set(units) == {"baton", "triton", "baton-control"}
    for name in ("baton", "triton"):  # else the models' processes get SIGTERM, too
        assert units[name]["Service"]["KillMode"] == "mixed"
    assert "Requires" not in units["baton-control"]["Unit"]
    assert units["triton"]["Service"]["User"] == units["baton-control"]["Service"]["User"]
    assert "--model-repository=/srv/baton/model_repository " in units["triton"]["Service"]["ExecStart"], "of ctl init"
    hides = {"PrivateUsers", "PrivatePIDs", "ProtectProc"}
    assert not hides & set(units["baton-control"]["Service"])


@pytest.mark.full
@pytest.mark.parametrize("step", UNITS, ids=lambda step: Path(step.file).name)
def test_systemd_takes_them(step: object, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    assert program is not None, "make tools installs it with systemd"
    folder = tmp_path / "units"
    folder.mkdir()
    for one in UNITS:
        text = one.text.replace("/opt/baton/bin/ctl", CTL)
        (folder / Path(one.file).name).write_text(text)
    done = subprocess.run(
        [program, "verify", "--man=no", str(folder / Path(step.file).name)],  # type: ignore[attr-defined]
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    mine = [line for line in done.stderr.splitlines() if str(folder) in line or Path(step.file).name in line]  # type: ignore[attr-defined]
    assert (done.returncode, mine) == (0, []), done.stderr
