"""The program ``ctl``: one file a verb, or a family of verbs. What a verb asks for is in ``baton.verbs``.

Data goes to stdout, messages to stderr. The exit codes are a promise: 0 done, 1 unexpected, 2 usage, 3 refused,
4 a gate failed or the rollout was rolled back, 5 unreachable, 6 timed out, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from baton import __version__
from baton.cli import adopt, backup, change, doctor, gateway, init, lists, push, serve, status, up
from baton.cli.output import prepare, say
from baton.cli.settings import common
from baton.errors import BatonError

INTERRUPTED = 130


class Ctl(click.Group):
    """The group, with Baton's exit codes instead of click's own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(self.commands)  # in the order in which one meets them, not by the alphabet

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - it is called ctl, also under python -m
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002 - the base class's signature
        **extra: Any,
    ) -> Any:
        prepare()
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # without it gRPC writes of each failed handshake to stderr
        code = self._run(args, complete_var, extra)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # `ctl history | head`: who read has enough. The interpreter must not trip over it again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 1
        sys.exit(code)

    def _run(self, args: Sequence[str] | None, complete_var: str | None, extra: dict[str, Any]) -> int:
        try:
            code = super().main(args, "ctl", complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            say("Interrupted.")
            return INTERRUPTED
        except BatonError as error:
            say(f"Error: {error}")
            return error.exit_code
        except BrokenPipeError:
            return 1
        except Exception as error:
            if os.environ.get("BATON_DEBUG") == "1":
                raise
            say(
                f"Error: {type(error).__name__}: {error}. This is a defect of Baton; with BATON_DEBUG=1 it shows "
                "where. The control plane's own log is what `ctl serve` or `ctl up` writes to stderr."
            )
            return 1
        return code if isinstance(code, int) else 0


@click.group(cls=Ctl, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ctl")
@common(environment=True)
def main() -> None:
    """Hands live traffic from one model version to the next on NVIDIA Triton.

    Exit codes: 0 done, 1 unexpected, 2 usage, 3 refused, 4 a gate failed or the rollout was rolled back, 5 Triton or
    the control plane can't be reached, 6 timed out, 130 interrupted.
    """


for _verb in (
    *(
        init.init,
        adopt.adopt,
        adopt.eject,
        up.up,
        serve.serve,
        gateway.gateway,
        status.status,
        lists.versions,
        lists.history,
    ),
    *(push.push, change.verify, change.promote, change.rollback, change.abort),
    *(change.prune, change.pause, change.resume, change.retry, backup.backup, backup.restore, doctor.doctor),
):
    main.add_command(_verb)
