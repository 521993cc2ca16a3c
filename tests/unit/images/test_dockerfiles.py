"""What goes into the images: pinned bases, hashed packages, nobody's secrets; and how they are to be run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.triton import ROOT
from tests.unit.facts.recorder import Recorder

from baton.metrics import MetricsServer

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
LOCKS = {"control.lock": "control.Dockerfile", "engine.lock": "triton.Dockerfile"}
WORDS = re.compile(r"(?P<name>[A-Z]+)\s+(?P<rest>.*)", re.DOTALL)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and its words: comments left out, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        match = WORDS.fullmatch(line)
        assert match, line
        found.append((match["name"], match["rest"]))
    return found


def of(file: Path, name: str) -> list[str]:
    return [words for instruction, words in instructions(file) if instruction == name]


def copied(file: Path) -> list[str]:
    """The sources in the build context that a Dockerfile copies."""
    assert of(file, "ADD") == [], "ADD downloads and unpacks; COPY does not"
    return [
        source
        for words in map(shlex.split, of(file, "COPY"))
        if not words[0].startswith("--from")
        for source in [word for word in words if not word.startswith("--")][:-1]
    ]


# The ignore file. Its rules are Docker's: the last pattern that matches a path or a folder above it decides.


@cache
def rules() -> list[tuple[bool, re.Pattern[str]]]:
    found = []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            text = re.escape(line.removeprefix("!").strip("/"))
            text = text.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            found.append((line.startswith("!"), re.compile(f"{text}(?:/.*)?")))
    return found


def sent(path: str) -> bool:
    """Whether a file of the repository gets into the build context."""
    kept = True
    for keep, pattern in rules():
        if pattern.fullmatch(path):
            kept = keep
    return kept


def tracked() -> list[str]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [name for name in names.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_is_copied_is_there_and_sent(file: Path) -> None:
    sources = copied(file)
    assert sources
    for source in sources:
        path = ROOT / source
        assert path.exists(), source
        # Not what Git does not know either: tests leave __pycache__ there.
        inside = [name for name in tracked() if PurePosixPath(name).is_relative_to(source.strip("/"))]
        assert inside, source
        assert [name for name in inside if not sent(name)] == []


def test_nothing_is_sent_that_no_image_copies() -> None:
    sources = [source.strip("/") for file in DOCKERFILES for source in copied(file)]
    unused = [
        name for name in tracked() if sent(name) and not any(PurePosixPath(name).is_relative_to(s) for s in sources)
    ]
    assert unused == []


@pytest.mark.parametrize(
    "path",
    [
        ".baton/admin.key",
        ".baton/journal.db",
        ".env",
        ".git/config",
        ".venv/bin/python",
        "admin.key",
        "baton.toml",
        "cert.pem",
        "control/admin.key",
        "control/baton.egg-info/SOURCES.txt",
        "control/baton/.env",
        "control/baton/__pycache__/secret.cpython-312.pyc",
        "control/baton/local/admin.key",
        "demo/checkpoints/base/config.json",
        "docker/admin.key",
        "docker/token",
        "key.pem",
        "model_repository/qwen3_vl_reranker/1/model.safetensors",
        "model_repository/reranker_splitter/token.json",
        "python_backend/.baton/admin.key",
        "python_backend/splitter/key.pem",
        "python_backend/splitter/triton.log",
        "tests/conftest.py",
        "token",
    ],
)
def test_secrets_state_and_history_are_not_sent(path: str) -> None:
    assert not sent(path)


# Bases and packages.


def test_bases_are_arguments_and_pinned_where_their_digest_is_known() -> None:
    bases = {}
    for file in DOCKERFILES:
        arguments = dict(words.split("=", 1) for words in of(file, "ARG"))
        for words in of(file, "FROM"):
            name = re.fullmatch(r"\$\{(\w+)\}(?: AS \w+)?", words)
            assert name, f"{words} can't be pinned by whoever builds"
            bases[name[1]] = arguments[name[1]]
    assert set(bases) == {"PYTHON_IMAGE", "TRITON_IMAGE"}
    assert re.fullmatch(r"docker\.io/library/python:3\.12-slim@sha256:[0-9a-f]{64}", bases["PYTHON_IMAGE"])
    # NVIDIA's registry gives its digests to the person who builds: the README shows how to pass one.
    readme = (ROOT / "docker" / "README.md").read_text()
    assert bases["TRITON_IMAGE"] in readme
    assert "--build-arg TRITON_IMAGE=" in readme
    assert "imagetools inspect" in readme


def requirements(lock: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "control.lock": project["project"]["dependencies"] + project["build-system"]["requires"],
        "engine.lock": project["project"]["optional-dependencies"]["engine"],
    }
    return [Requirement(text) for text in wanted[lock]]


def locked(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Each package of a lock file: its version, and the SHA-256 sums of its files."""
    found = {}
    for line in re.sub(r" \\\n\s*", " ", (ROOT / "docker" / lock).read_text()).splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", line)
        assert match, f"{line[:80]} is not one package, its version and its hashes"
        found[canonicalize_name(match[1])] = (match[2], match[3].split())
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_what_the_project_asks_for(lock: str) -> None:
    """One place says which versions are old enough to fail: ``pyproject.toml``."""
    have = locked(lock)
    for wanted in requirements(lock):
        version, _ = have[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_the_versions_that_the_tests_ran_with(lock: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    constraints = {canonicalize_name(name): version for name, version in pins}
    have = locked(lock)
    assert {name: constraints[name] for name in have if name in constraints} == {
        name: version for name, (version, _) in have.items() if name in constraints
    }, "run `make lock`"


@pytest.mark.parametrize(("lock", "file"), LOCKS.items())
def test_images_install_only_what_a_lock_names(lock: str, file: str) -> None:
    """The rest is Baton itself, without its dependencies and without a download."""
    path = ROOT / "docker" / file
    runs = [words.strip() for run in of(path, "RUN") for words in run.split("&&")]
    installs = [words for words in runs if re.search(r"\bpip\b.*\binstall\b", words)]
    assert installs
    for words in installs:
        given = set(words.split())
        if f"{lock}" in words:
            assert {"--require-hashes", "--only-binary=:all:", "-r"} <= given, words
        else:
            assert {"--no-deps", "--no-build-isolation", "."} <= given, words
    assert not [words for words in runs if re.search(r"\b(curl|wget|git|apt-get|npm)\b", words)]
    assert lock in " ".join(copied(path))


# How they run.


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_nothing_runs_as_root(file: Path) -> None:
    last = of(file, "USER")[-1]
    assert last == "1000:1000", "a number, so that Kubernetes can check runAsNonRoot"


def health_check(image: str) -> list[str]:
    (words,) = of(ROOT / "docker" / f"{image}.Dockerfile", "HEALTHCHECK")
    return list(json.loads(words.partition("CMD ")[2]))  # a list: no shell reads it


@pytest.mark.parametrize("live", [True, False])
def test_the_health_check_of_the_control_plane_asks_no_proxy(*, live: bool) -> None:
    app = Recorder()
    app.feels(live=live)
    program, *words = health_check("control")
    assert program == "python"
    with MetricsServer(app, "127.0.0.1:0") as server:
        here = [word.replace("9464", str(server.port)) for word in words]
        assert here != words
        nowhere = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, *here], env=nowhere, capture_output=True, timeout=120, check=False)
    assert (done.returncode == 0) is live, done.stderr


def test_the_health_check_of_triton_asks_no_proxy() -> None:
    program, *words = health_check("triton")
    assert program == "curl"
    assert words[words.index("--noproxy") + 1] == "*"
    assert "--fail" in words


def test_the_image_of_triton_starts_by_its_entry_point_alone() -> None:
    file = ROOT / "docker" / "triton.Dockerfile"
    (entry,) = map(json.loads, of(file, "ENTRYPOINT"))
    assert entry[1:] == ["python3", "/opt/baton/triton-entrypoint.py"]
    assert [json.loads(words) for words in of(file, "CMD")] == [[]]
    assert "tritonserver" not in " ".join(of(file, "RUN")).replace("/opt/tritonserver/backends/", "")


def test_the_entry_point_has_all_that_it_imports(tmp_path: Path) -> None:
    """In the image there is no package that it could use, and of the control plane only what is copied."""
    for words in of(ROOT / "docker" / "triton.Dockerfile", "COPY"):
        *sources, folder = shlex.split(words)
        if folder.startswith("/opt/baton/") and "backends" not in folder:
            place = tmp_path / folder.removeprefix("/opt/baton/")
            place.mkdir(parents=True, exist_ok=True)
            for source in sources:
                shutil.copy(ROOT / source, place)
    server = tmp_path / "tritonserver"
    server.touch(mode=0o755)
    done = subprocess.run(
        [sys.executable, "-S", str(tmp_path / "triton-entrypoint.py")],
        env={"PATH": str(tmp_path), "BATON_ADMIN_KEY_FILE": str(tmp_path / "not-there")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Triton does not start without an admin key")


def commands(file: Path) -> Iterator[list[str]]:
    """The words of each ``docker run`` in a page."""
    for block in re.findall(r"```sh\n(.*?)```", file.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith("docker run"):
                yield shlex.split(line)


PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docker/*.md")]


def test_the_commands_of_the_pages_run_them_with_the_fewest_rights() -> None:
    found = [words for page in PAGES for words in commands(page)]
    images = {image for words in found for image in ("baton-triton", "baton-control") if image in words}
    assert images == {"baton-triton", "baton-control"}
    for words in found:
        text = " ".join(words)
        assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(words), text
        assert {"--tmpfs=/tmp", "--ulimit=core=0"} <= set(words), text
        published = [words[at + 1] for at, word in enumerate(words) if word in {"-p", "--publish"}]
        assert all(port.startswith("127.0.0.1:") for port in published), text
        assert not any(port.endswith(":8002") for port in published), "metrics have no key"
        assert not re.search(r"--(privileged|user|network=host|ipc=host|pid=host|cap-add)", text)
        assert ":/run/secrets/admin.key:ro" in text
        if "baton-triton" in words:
            assert "/srv/baton/models:/models:ro" in words
