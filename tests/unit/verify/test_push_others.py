"""``ctl push`` by root, of another user's folder and beside what another user prepared.

Nothing is published that the writer of the source could not read himself, and nothing outside of the new version is
changed. Where somebody is quick, the swap is made from within the push, at the worst moment, and not by luck.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.others import NOBODY, as_nobody, common_place, give, takes_root
from tests.unit.verify.tiny import files, write

from baton.errors import RepositoryError, Untrusted
from baton.ownership import Found
from baton.push import push
from baton.verify.files import open_regular

pytestmark = takes_root

SECRET = b"root:$6$salt$hash\n"
TEMPLATE = "chat_template.jinja"


@pytest.fixture
def place():
    with common_place() as found:
        (found / "models" / "engine").mkdir(parents=True)
        (found / "private").mkdir(mode=0o700)
        (found / "private" / "secret").write_bytes(SECRET)
        (found / "private" / "secret").chmod(0o600)
        yield found


@pytest.fixture
def theirs(place):
    """A checkpoint of nobody's."""
    return give(write(place / "theirs"))


def published(place):
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.glob("models/engine/*/*")}


def refused(place, source, words):
    with pytest.raises(Untrusted, match=words):
        push(source, place / "models", "engine")
    assert published(place) == {}
    assert SECRET not in b"".join(path.read_bytes() for path in place.glob("models.staging*/**/*") if path.is_file())


def link(name, to):
    """A link that nobody makes himself."""
    as_nobody(lambda: Path(name).symlink_to(to))


# What is in the source


@pytest.mark.parametrize(
    "way", ["absolute", "relative", "twice", "folder", "proc", "descriptor", "version.toml", "sums"]
)
def test_a_link_of_another_user_to_what_is_not_his(place, theirs, way):
    secret = place / "private" / "secret"
    name = {"version.toml": "version.toml", "sums": "SHA256SUMS"}.get(way, TEMPLATE)
    with secret.open() as held:
        match way:
            case "relative":
                link(theirs / name, "../private/secret")
            case "twice":
                link(theirs / "hop", secret)
                link(theirs / name, "hop")
            case "folder":
                link(theirs / "hop", place / "private")
                link(theirs / name, "hop/secret")
            case "proc":
                link(theirs / name, f"/proc/self/root{secret}")
            case "descriptor":
                link(theirs / name, f"/proc/self/fd/{held.fileno()}")
            case _:
                link(theirs / name, secret)
        refused(place, theirs, f"A link that nobody made leads to {secret}, which belongs to root")


def test_a_link_to_the_passwords(place, theirs):
    link(theirs / TEMPLATE, "/etc/shadow")
    refused(place, theirs, "A link that nobody made leads to /etc/shadow, which belongs to root")


def test_another_user_s_link_in_a_folder_that_everybody_may_write(place):
    source = write(place / "source")
    source.chmod(0o777)
    link(source / TEMPLATE, place / "private" / "secret")
    refused(place, source, "A link that nobody made")


def test_a_hard_link_to_what_is_not_his(place, theirs):
    """Without ``protected_hardlinks`` everybody may make one to a file that he can't read."""
    (theirs / TEMPLATE).hardlink_to(place / "private" / "secret")
    refused(place, theirs, f"{TEMPLATE} belongs to root, its folder to nobody, and not everybody may read it")


def test_a_hard_link_in_a_folder_that_everybody_may_write(place):
    source = write(place / "source")
    source.chmod(0o777)
    (source / TEMPLATE).hardlink_to(place / "private" / "secret")
    refused(place, source, f"{TEMPLATE} has 2 names.*others than root may write in its folder")


def test_a_hard_link_to_a_link_of_root(place, theirs):
    (place / "shortcut").symlink_to(place / "private" / "secret")
    os.link(place / "shortcut", theirs / TEMPLATE, follow_symlinks=False)
    refused(place, theirs, "A link that nobody made")


def test_a_source_that_is_a_link_to_a_folder_that_is_not_his(place):
    write(place / "private" / "model")
    (place / "home").mkdir()
    give(place / "home")
    link(place / "home" / "model", place / "private" / "model")
    refused(place, place / "home" / "model", f"A link that nobody made leads to {place}/private/model")


def test_what_may_be_followed(place, theirs):
    """A user's link to a file of his own, elsewhere; root's links to anything; a private file in its own folder."""
    (place / "more").mkdir()
    (place / "more" / "template").write_text("a")
    give(place / "more")
    link(theirs / TEMPLATE, "../more/template")
    (theirs / "generation_config.json").symlink_to(place / "private" / "generation")
    (place / "private" / "generation").write_text("{}")
    (theirs / "config.json").chmod(0o600)
    push(theirs, place / "models", "engine")
    there = published(place)
    assert there[f"models/engine/1/{TEMPLATE}"] == b"a"
    assert there["models/engine/1/generation_config.json"] == b"{}"
    assert {path.stat().st_uid for path in (place / "models" / "engine" / "1").iterdir()} == {0}


def test_a_link_that_came_with_an_archive(place):
    """It belongs to who unpacked it, as do the keys that it leads to; what lies in the folder itself is pushed."""
    ours = write(place / "ours")
    (ours / TEMPLATE).symlink_to("../private/secret")
    refused(place, ours, r"A link leads out of the folder, to .*/private/secret, which not everybody may read")
    (ours / TEMPLATE).unlink()
    (ours / TEMPLATE).symlink_to("config.json")
    (ours / "config.json").chmod(0o600)
    assert push(ours, place / "models", "engine").version == 1


def cached(place):
    """A snapshot in a Hugging Face cache that several share: root downloaded the blobs, nobody the revision."""
    snapshot = place / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    give(snapshot)
    for name, content in files().items():
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        link(snapshot / name, f"../../blobs/{digest}")
    return snapshot, blobs


def test_a_snapshot_of_a_shared_cache(place):
    snapshot, _ = cached(place)
    push(snapshot, place / "models", "engine")
    assert {Path(name).name for name in published(place)} == {*files(), "SHA256SUMS"}


def test_blobs_that_are_a_link(place):
    snapshot, blobs = cached(place)
    shutil.rmtree(blobs)
    (place / "private" / "secret").rename(place / "private" / "hash")
    give(blobs.parent)
    link(blobs, place / "private")
    (snapshot / TEMPLATE).unlink(missing_ok=True)
    link(snapshot / TEMPLATE, "../../blobs/hash")
    refused(place, snapshot, "A link that nobody made leads to .*/private/hash")


def test_blobs_of_another_model(place):
    snapshot, _ = cached(place)
    other = place / "hub" / "models--org--private" / "blobs"
    other.mkdir(parents=True)
    (other / "hash").write_bytes(SECRET)
    link(snapshot / TEMPLATE, "../../../models--org--private/blobs/hash")
    refused(place, snapshot, "A link that nobody made leads to .*models--org--private/blobs/hash")


# Between the look and the copy


def twin(place, of):
    """A secret that can't be told from a file by size and time."""
    secret, status = place / "private" / "secret", of.stat()
    secret.write_bytes(SECRET.ljust(status.st_size, b"#"))
    os.utime(secret, ns=(status.st_atime_ns, status.st_mtime_ns))
    return secret


def once(name, act):
    """What acts when a push is about to open that file for its copy."""

    def progress(done, total, what):
        if what == name and not told:
            told.append(what)
            act()

    told: list[str] = []
    return progress


def test_a_file_that_becomes_a_link_before_it_is_copied(place, theirs):
    (theirs / TEMPLATE).write_bytes(b"a template of forty bytes or somewhat more.")
    give(theirs)
    secret = twin(place, theirs / TEMPLATE)

    def swap():
        (theirs / TEMPLATE).unlink()
        link(theirs / TEMPLATE, secret)

    with pytest.raises(Untrusted, match="A link that nobody made"):
        push(theirs, place / "models", "engine", progress=once(TEMPLATE, swap))
    assert published(place) == {}


def test_a_folder_that_becomes_a_link_before_it_is_copied(place, theirs):
    content = b"a template of forty bytes or somewhat more."
    (theirs / TEMPLATE).write_bytes(content)
    give(place / "theirs")
    secret = twin(place, theirs / TEMPLATE)
    secret.rename(place / "private" / TEMPLATE)

    def swap():
        theirs.rename(place / "away")
        theirs.symlink_to(place / "private")
        os.lchown(theirs, NOBODY, NOBODY)

    push(theirs, place / "models", "engine", progress=once(TEMPLATE, swap))
    assert published(place)[f"models/engine/1/{TEMPLATE}"] == content


def test_a_link_that_changes_between_its_check_and_the_open(place, theirs, monkeypatch):
    (place / "more").mkdir()
    (place / "more" / "template").write_text("a")
    give(place / "more")
    link(theirs / TEMPLATE, "../more/template")
    real = Found.open

    def late(found):
        if found.name == "template":
            (place / "more" / "template").unlink()
            link(place / "more" / "template", place / "private" / "secret")
        return real(found)

    monkeypatch.setattr(Found, "open", late)
    push(theirs, place / "models", "engine")
    assert published(place)[f"models/engine/1/{TEMPLATE}"] == b"a"


OPENED = """
import os, sys
from pathlib import Path
from baton.push import push
from baton.verify.files import open_regular

def note(event, args):
    if event == "open" and not (args[2] or 0) & os.O_PATH:
        try:
            if os.path.samestat(os.stat(args[0]), device):
                print("opened", flush=True)
        except (OSError, TypeError, ValueError):
            pass

device = os.stat(sys.argv[3])
sys.addaudithook(note)
for act in (lambda: push(Path(sys.argv[1]), Path(sys.argv[2]), "engine"), lambda: open_regular(Path(sys.argv[3]))):
    try:
        act()
    except Exception as error:
        print(error)
"""


def test_a_device_is_never_opened(place, theirs):
    """Opening one can do things: a tape is rewound, a watchdog begins to count."""
    device = place / "device"
    os.mknod(device, 0o20666, os.makedev(1, 3))
    link(theirs / TEMPLATE, device)
    os.chown(device, NOBODY, NOBODY)
    command = [sys.executable, "-c", OPENED, str(theirs), str(place / "models"), str(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{TEMPLATE} is a device" in done.stdout
    assert "device is not a plain file" in done.stdout
    assert "opened" not in done.stdout


def test_a_file_that_becomes_a_fifo_is_not_waited_for(place, theirs):
    def swap():
        (theirs / "config.json").unlink()
        os.mkfifo(theirs / "config.json")

    with pytest.raises(Exception, match=r"config\.json is (no|not a) plain file"):
        push(theirs, place / "models", "engine", progress=once("config.json", swap))
    with pytest.raises(Exception, match=r"config\.json is not a plain file"):
        open_regular(theirs / "config.json")


# The staging folder

STAGINGS = ("models.staging", "models.staging-0")


@pytest.fixture
def precious(place):
    """A folder of root's with a file that has a name out of a checkpoint."""
    folder = place / "precious"
    folder.mkdir()
    (folder / "config.json").write_text("kept")
    return folder


@pytest.fixture
def ours(place):
    return write(place / "ours")


def key_of(source):
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize("trap", ["link to a folder", "link to a file", "record", "lock", "folder"])
def test_what_another_user_prepared_is_not_used(place, ours, precious, staging, trap):
    folder = place / staging / "engine"
    folder.mkdir(parents=True)
    key = key_of(ours)
    match trap:
        case "link to a folder":  # whose files would be removed, since the source does not have them so
            (folder / key).symlink_to(precious)
        case "link to a file":
            (folder / key).mkdir()
            (folder / key / "SHA256SUMS").symlink_to(precious / "config.json")
        case "record":
            (folder / f"{key}.new").symlink_to(precious / "config.json")
        case "lock":
            (folder / ".lock").symlink_to(precious / "new")
        case "folder":
            (folder / key).mkdir()
            (folder / key).chmod(0o777)
    give(place / staging)
    if staging.endswith("-0"):
        with pytest.raises(Untrusted, match=f"{staging} belongs to nobody, mode 0755: .*Nothing was touched"):
            push(ours, place / "models", "engine")
        assert published(place) == {}
    else:
        folder = push(ours, place / "models", "engine").folder
        assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {0}
    assert {path.name: path.read_text() for path in precious.iterdir()} == {"config.json": "kept"}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_level_that_others_may_write_or_that_is_a_link(place, ours, precious, depth):
    folders = [
        place / "models.staging-0",
        place / "models.staging-0/engine",
        place / f"models.staging-0/engine/{key_of(ours)}",
    ]
    folder = folders[depth]
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(Untrusted, match=f"{folder} belongs to root, mode 0777: others than root could change"):
        push(ours, place / "models", "engine")
    folder.rmdir()
    folder.symlink_to(precious)
    with pytest.raises(Untrusted, match=f"{folder} is no folder, but a link or a file"):
        push(ours, place / "models", "engine")
    assert (precious / "config.json").read_text() == "kept"
    folder.unlink()
    assert push(ours, place / "models", "engine").version == 1


def interrupted(place, source):
    """A push that ends in the middle; returns its staging folder."""

    class Stop(BaseException):
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):
        push(source, place / "models", "engine", progress=once("tokenizer_config.json", stop))
    (staged,) = (path for path in place.glob("models.staging*/engine/*") if path.is_dir())
    return staged


@pytest.mark.parametrize("how", ["owner", "link", "hard link"])
def test_nothing_is_kept_that_was_not_made_here(place, ours, how):
    staged = interrupted(place, ours)
    kept = staged / "config.json"
    content = kept.read_bytes()
    if how == "owner":
        give(kept)
    else:
        kept.unlink()
        other = place / "other.json"
        other.write_bytes(content)
        (kept.symlink_to if how == "link" else kept.hardlink_to)(other)
    folder = push(ours, place / "models", "engine").folder
    status = (folder / "config.json").lstat()
    assert (status.st_uid, status.st_nlink) == (0, 1)
    assert (folder / "config.json").read_bytes() == content
    assert not (folder / "config.json").is_symlink()


def test_a_folder_swapped_between_the_proof_and_the_rename(place, ours):
    """By somebody who may write where the repository lies."""
    place.chmod(0o777)

    def swap(_done, _total, what):
        if what == "verifying the copy" and not (place / "away").exists():
            (staging,) = place.glob("models.staging*")
            (staged,) = (path for path in staging.glob("engine/*") if path.is_dir())
            (place / "evil").mkdir()
            (place / "evil" / "engine").mkdir()
            write(place / "evil" / "engine" / staged.name, files(fill=9))
            give(place / "evil")
            staging.rename(place / "away")
            (place / "evil").rename(staging)

    folder = push(ours, place / "models", "engine", progress=swap).folder
    assert (place / "away").exists()
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (0, 0o755)
    shard = "model-00001-of-00002.safetensors"
    assert (folder / shard).read_bytes() == files()[shard]


def test_others_can_read_what_was_published_and_not_what_is_staged(place, ours):
    before = os.umask(0o077)
    try:
        interrupted(place, ours)
        assert (place / "models.staging-0").stat().st_mode & 0o777 == 0o700
        folder = push(ours, place / "models", "engine").folder
    finally:
        os.umask(before)
    found = as_nobody(lambda: {path.name: path.read_bytes() for path in folder.iterdir()})
    assert {name: data for name, data in found.items() if name != "SHA256SUMS"} == files()


def test_two_users_push_to_the_repository_of_a_team(place, ours, theirs, caplog):
    """With folders that their group may write in: each stages in a folder of his own, and is told of the risk."""
    for folder in (place, place / "models", place / "models" / "engine"):
        os.chown(folder, 0, NOBODY)
        folder.chmod(0o2775)
    assert push(ours, place / "models", "engine").version == 1
    assert f"{place} can be changed by the group nogroup" in caplog.text
    assert as_nobody(lambda: push(theirs, place / "models", "engine").version) == 2
    assert push(ours, place / "models", "engine").version == 3
    owners = [(place / "models" / "engine" / str(number)).stat().st_uid for number in (1, 2, 3)]
    assert owners == [0, NOBODY, 0]


def test_where_the_pusher_may_not_stage(place, theirs):
    (place / "models" / "engine").chmod(0o777)
    with pytest.raises(RepositoryError, match="Permission denied") as told:
        as_nobody(lambda: push(theirs, place / "models", "engine"))
    staging = place / f"models.staging-{NOBODY}"
    assert told.value.mend.endswith(f"install -d -o nobody -m 700 {staging}")
    staging.mkdir(mode=0o700)
    give(staging)
    assert as_nobody(lambda: push(theirs, place / "models", "engine").version) == 1


def test_an_engine_s_folder_that_is_a_link_of_another_user(place, ours, precious):
    (place / "models" / "engine").rmdir()
    link_at = place / "models" / "engine"
    link_at.symlink_to(precious)
    os.lchown(link_at, NOBODY, NOBODY)
    with pytest.raises(Untrusted, match=f"A link that nobody made leads to {precious}"):
        push(ours, place / "models", "engine")
    assert [path.name for path in precious.iterdir()] == ["config.json"]
