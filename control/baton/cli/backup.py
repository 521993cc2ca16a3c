"""``ctl backup`` and ``ctl restore``: the journal, kept elsewhere and put back. Neither needs a control plane."""

from __future__ import annotations

from pathlib import Path

import click

from baton.cli.follow import ask
from baton.cli.output import print_json, say, size
from baton.cli.settings import YES, Settings, common, pass_settings


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE|DIR")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@common()
@pass_settings
def backup(settings: Settings, target: Path, force: bool) -> None:  # noqa: FBT001 - click's way to pass a flag
    """Copy the journal to FILE, or into DIR under a name with the time.

    Also while a control plane runs. The copy is whole or not there, and its owner alone may read it.
    """
    from baton.backup import backup as copy

    settings.only_here("backup")
    made = copy(settings.state_directory(), target, force=force)
    if settings.json:
        print_json(made)
    else:
        last = f", the last entry of {made.last_entry}" if made.last_entry else ""
        click.echo(f"{made.file}: {size(made.bytes)}, {made.rollouts} rollouts{last}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
@YES
@common()
@pass_settings
def restore(settings: Settings, source: Path, yes: bool) -> None:  # noqa: FBT001 - click's way to pass a flag
    """Put a backup in the place of the journal, which is kept beside it.

    No control plane may run for the state directory. What serves is not touched, then or later; Baton starts paused.
    """
    from baton.api import SOCKET, caller, claim
    from baton.backup import restore as put_back

    settings.only_here("restore")
    config = settings.load()
    ask(f"Put {source} in the place of the journal in {config.state}?", yes=yes)
    with claim(config.state / SOCKET):
        done = put_back(config, source, who=caller())
    if settings.json:
        print_json(done)
        return
    last = f", whose last entry is of {done.last_entry}" if done.last_entry else ""
    click.echo(f"{done.journal} is now {source}{last}.")
    if done.kept:
        click.echo(f"The old journal: {done.kept}")
    for number in done.turned_back:
        click.echo(f"Rollout {number} was under way, and is turned back at the next start.")
    say("Baton starts paused. Look at `ctl status` and `ctl versions`, then let it go on with `ctl resume`.")
