"""Nothing that a terminal obeys reaches it, wherever it came from; programs still read the same text."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from click.testing import CliRunner

from baton.cli.output import SafeFormatter, plain, print_json, safe, say, show

EVIL = "a\x1b]0;owned\x07b\x9b2J\u202ec\x00d\re\x7f\ud800"
SHOWN = r"a\u001b]0;owned\u0007b\u009b2J\u202ec\u0000d\u000de\u007f\ud800"


def test_control_characters_become_escapes():
    assert safe(EVIL) == SHOWN
    assert safe("Zürich 東京 ✔ …\n\tnext") == "Zürich 東京 ✔ …\n\tnext"


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_and_messages(monkeypatch, capsys, terminal):
    monkeypatch.setattr("baton.cli.output.is_terminal", lambda _: terminal)
    show([[(EVIL, ""), ("[bold]x", "")]])
    say(EVIL)
    out, err = capsys.readouterr()
    assert SHOWN + "[bold]x" in out.replace("\n", "")
    assert SHOWN in err.replace("\n", "")
    assert "\x1b" not in out + err
    assert plain([(EVIL, "")]) == SHOWN


def test_json_stays_the_same_text(capsys):
    data = {"name": EVIL, "messages": ["東京", EVIL]}
    print_json(data)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == data


def test_log_lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter("%(message)s"))
    log = logging.getLogger("baton.test.safe")
    log.addHandler(handler)
    log.propagate = False
    log.warning("Triton says %s", EVIL)
    assert stream.getvalue() == f"Triton says {SHOWN}\n"
    try:
        int(EVIL)
    except ValueError:
        log.exception("failed on %s", EVIL)
    assert "\x1b" not in stream.getvalue()
    assert "Traceback (most recent call last):\n" in stream.getvalue()


def test_the_logging_of_serve_is_safe():
    code = f"from baton.cli.serve import start_logging; import logging; start_logging(); logging.info({EVIL!r})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert SHOWN in found.stderr


def test_a_path_with_escapes(tmp_path):
    from baton.cli import main

    result = CliRunner().invoke(main, ["--config", str(tmp_path / "x\x1b[2J.toml"), "status"])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
