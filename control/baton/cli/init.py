"""``ctl init``: a configuration and a model repository to begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from baton.cli.output import print_json, size
from baton.cli.settings import CONFIG_FILE, Settings, common, pass_settings
from baton.errors import Refused
from baton.share import shared

GOLDEN = '# golden = "golden/golden.jsonl"'
"""The line of the template that the demo's golden set takes the place of."""
SECOND = ("demo", "checkpoints", "retrained")
"""The demo's second version, at the place where a checkout has it: the tutorial's commands fit both."""
ASK = (
    "from baton.client import Reranker; "
    "print(Reranker('{address}').rank('a red apple', ['a green pear', 'a round red apple']))"
)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=".", metavar="[DIR]")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A Qwen3-VL-Reranker checkpoint, which is copied in as version 1.",
)
@click.option("--demo", is_flag=True, help="Begin with the small checkpoints and the golden set of Baton's demo.")
@common()
@pass_settings
def init(settings: Settings, directory: Path, checkpoint: Path | None, *, demo: bool) -> None:
    """Write baton.toml and a model repository into DIR (by default the current directory).

    Afterwards `ctl up` starts Triton and the control plane there. Nothing that is there already is changed.
    """
    from baton.cli.local import prepare_engine
    from baton.config import load
    from baton.push import push

    if demo and checkpoint is not None:
        raise click.UsageError("--demo brings a checkpoint of its own: leave out --demo or --checkpoint.")
    file = directory / CONFIG_FILE
    if file.exists():
        raise Refused(f"{file} is there already, and was not changed.", mend="Edit it, or name another directory.")
    directory.mkdir(parents=True, exist_ok=True)
    text = shared_template()
    if demo:
        shutil.copytree(shared("demo", "golden"), directory / "golden", dirs_exist_ok=True)
        shutil.copytree(shared(*SECOND), directory.joinpath(*SECOND), dirs_exist_ok=True)
        text = text.replace(GOLDEN, GOLDEN.removeprefix("# "))
        checkpoint = shared("demo", "checkpoints", "base")
    # The configuration comes last: whatever failed before it, the same command can be given again.
    draft = directory / f".{CONFIG_FILE}.new"
    draft.write_text(text)
    try:
        config = load(draft)
        service = config.service(None)
        engine = config.repository / service.engine
        prepare_engine(config.repository, service)
        pushed = None
        if checkpoint is not None and not any(entry.is_dir() for entry in engine.iterdir()):
            pushed = push(checkpoint, config.repository, service.engine)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    if settings.json:
        print_json({
            "config": str(file), "repository": str(config.repository),
            "version": None if pushed is None else pushed.version,
        })  # fmt: skip
    else:
        click.echo(f"Wrote {file} and {engine / 'config.pbtxt'}.")
        if pushed is not None:
            click.echo(f"Version {pushed.version} is in place: {pushed.folder}, {size(pushed.bytes)}.")
    where = "" if directory == Path() else f"cd {directory} && "
    steps = {"Start Triton and Baton": "ctl up", "Follow what they do": "ctl status --watch"}
    if checkpoint is None:
        steps = {"Copy the first version in": "ctl push CHECKPOINT", **steps}
    if demo:
        steps |= {"Bring the second version": f"ctl push {'/'.join(SECOND)} --release retrained"}
    for what, command in steps.items():
        click.echo(f"{what}:  {where}{command}", err=True)
    click.echo(f'Ask, once it serves:  python -c "{ASK.format(address=config.servers[0].grpc)}"', err=True)


def shared_template() -> str:
    """The commented ``baton.toml``."""
    return Path(__file__).parents[1].joinpath("init.toml").read_text("utf-8")
