"""docker/compose.yml gives its containers the fewest rights, and is what Docker Compose takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.places import ROOT
from tests.support.guides import section

from baton.config import parse

FILE = ROOT / "docker" / "compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_has_the_fewest_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["ulimits"] == {"core": 0}
    assert service["secrets"] == ["admin.key"]
    assert all(port.startswith("127.0.0.1:") and not port.endswith(":8002") for port in service["ports"])
    assert not {"privileged", "user", "network_mode", "ipc", "cap_add"} & set(service)


def test_triton_only_reads_the_repository_and_starts_by_default_with_nobody_asking() -> None:
    assert [volume.rpartition(":")[2] for volume in SERVICES["triton"]["volumes"]] == ["ro"]
    assert SERVICES["triton"]["profiles"] == ["triton"]
    assert "profiles" not in SERVICES["control"]


@pytest.mark.parametrize("page", ["how-to/compose.md", "how-to/gpu-docker.md"])
def test_the_configuration_of_the_page_fits_the_file(page: str) -> None:
    (written,) = [step for step in section(page) if step.file.endswith("/baton.toml")]
    assert f"{Path(written.file).parent}}}:/etc/baton:ro" in SERVICES["control"]["volumes"][2]
    config = parse(tomllib.loads(written.text), "test", Path("/etc/baton"))
    assert f"--model-repository={config.repository}" in SERVICES["triton"]["command"]
    # `ctl push` gathers a version beside the repository: that has to be in the same mount.
    assert SERVICES["control"]["volumes"][0].endswith(f":{config.repository.parent}")
    assert config.servers[0].admin_key_file == Path("/run/secrets/admin.key")
    asked = {word.partition("=")[2] for word in SERVICES["triton"]["command"] if word.startswith("--load-model=")}
    assert asked == {config.services[0].name, config.services[0].engine}
    assert config.control.metrics.endswith(":9464"), "the image's health check asks that port"


@pytest.mark.full
@pytest.mark.parametrize("profile", [(), ("--profile", "triton")])
def test_docker_compose_takes_it(profile: tuple[str, ...]) -> None:
    beside = Path(sys.executable).with_name("docker-compose")
    program = str(beside) if beside.is_file() else shutil.which("docker-compose")
    assert program is not None, "make tools installs it"
    done = subprocess.run(
        [program, "-f", str(FILE), *profile, "config", "--format", "json"],
        env={**os.environ, "TRITON_NETWORK": "mine", "MODELS": "/elsewhere"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    made = json.loads(done.stdout)
    assert set(made["services"]) == {"control", *(["triton"] if profile else [])}
    assert made["networks"]["triton"]["name"] == "mine"
    assert made["services"]["control"]["volumes"][0]["source"] == "/elsewhere"
