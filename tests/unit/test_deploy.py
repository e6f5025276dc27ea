"""The container file and the Kubernetes manifest: what they say is so, and what they claim they do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

import xai_service
from xai_service import config_file
from xai_service.cli import main
from xai_service.config import ServiceConfig, is_loopback, is_unix
from xai_service.wire.health import LIVENESS, STARTUP

ROOT = Path(__file__).resolve().parents[2]
HEALTH_PORT = 8004


@pytest.fixture(scope="module")
def stages():
    """The container file's instructions, by stage."""
    text = re.sub(r"\\\n", " ", (ROOT / "deploy/Containerfile").read_text())
    stages = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append([])
            if stages:
                stages[-1].append((name, rest.strip()))
    return stages


def only(stage, name):
    (value,) = [rest for instruction, rest in stage if instruction == name]
    return value


def test_the_image_is_built_apart_from_what_runs(stages):
    build, final = stages
    assert {name for name, _ in final} == {
        "FROM", "COPY", "ENV", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD",
    }  # nothing is run in it, so no shell is needed  # fmt: skip
    assert only(final, "COPY") == "--from=build /opt/xai /opt/xai"
    for instruction, rest in build:
        if instruction == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert (ROOT / source).exists(), source
    assert only(build, "FROM").split()[0] == only(final, "FROM") == "${BASE}"
    assert "--without-pip" in str(build)


def test_all_that_the_build_reads_is_copied(stages):
    copied = {one for name, rest in stages[0] if name == "COPY" for one in shlex.split(rest)[:-1]}
    named = set(re.findall(r'"(native|protos|xai_service)/', (ROOT / "setup.py").read_text()))
    readme = re.search(r'^readme = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    included = {line.split()[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines()}
    assert copied >= named | included | {readme, "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "xai_service"}


def test_it_runs_as_nobody_and_by_no_shell(stages):
    final = stages[1]
    user, group = only(final, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(only(final, "ENTRYPOINT")) == ["/opt/xai/bin/xai"]
    assert parsed(json.loads(only(final, "CMD"))) == ["--config", "/etc/xai/xai.toml"]
    assert only(final, "STOPSIGNAL") == "SIGTERM"
    default_port = ServiceConfig(repository=Path("x")).listen[0].rpartition(":")[2]
    assert only(final, "EXPOSE").split() == [default_port, str(HEALTH_PORT)]
    assert "XAI_" not in str(stages)  # variables would win over the file


def parsed(command):
    """The arguments of `xai serve`, all of which are its options."""
    name, *arguments = command
    options = {flag for option in main.commands[name].params for flag in option.opts}
    assert {one for one in arguments if one.startswith("--")} <= options
    return arguments


@pytest.fixture(scope="module")
def manifest():
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifest):
    return manifest["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def sidecar(pod):
    (sidecar,) = pod["initContainers"]
    return sidecar


@pytest.fixture
def config(manifest, tmp_path):
    path = tmp_path / "xai.toml"
    path.write_text(manifest["ConfigMap"]["data"]["xai.toml"])
    settings = config_file.read(path)
    return ServiceConfig(**{
        name: Path(value) if name in ("repository", "ledger") else tuple(value) if name == "listen" else value
        for name, value in settings.items()
    })  # fmt: skip


def test_the_sidecar_is_one(sidecar):
    assert sidecar["restartPolicy"] == "Always"
    assert parsed(sidecar["args"]) == ["--config", "/etc/xai/xai.toml"]
    assert sidecar["image"].partition(":")[2] == xai_service.__version__
    assert "lifecycle" not in sidecar
    assert set(sidecar["resources"]) == {"requests", "limits"}


def test_probes_ask_what_is_answered(sidecar, config):
    assert config.health_listen == f"0.0.0.0:{HEALTH_PORT}"
    assert not is_loopback(config.health_listen)
    asked = {kind: sidecar[kind]["grpc"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {grpc["port"] for grpc in asked.values()} == {HEALTH_PORT}
    assert asked["startupProbe"]["service"] == STARTUP
    assert asked["livenessProbe"]["service"] == LIVENESS
    assert "service" not in asked["readinessProbe"]
    assert [one["containerPort"] for one in sidecar["ports"]] == [HEALTH_PORT]


def test_nothing_may_more_than_it_needs(pod, sidecar):
    assert pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["fsGroup"] == context["runAsGroup"]
    for container in (sidecar, *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    read_only = {mount["name"] for mount in sidecar["volumeMounts"] if mount.get("readOnly")}
    assert read_only == {"configuration", "models"}


def test_what_is_written_is_on_a_volume(manifest, pod, sidecar, config):
    mounts = {mount["mountPath"]: mount["name"] for mount in sidecar["volumeMounts"]}
    assert mounts[str(config.ledger.parent)] == "ledger"
    assert mounts[str(config.repository)] == "models"
    (claim,) = manifest["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "ledger"
    (address,) = config.listen
    assert is_unix(address)
    socket = Path(address.removeprefix("unix:"))
    assert mounts[str(socket.parent)] == "socket"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(volumes) | {"ledger"} == set(mounts.values())
    assert "emptyDir" in volumes["socket"]
    # The application finds it where it is, and may write to it: the group is the pod's.
    (application,) = pod["containers"]
    assert {one["name"]: one["value"] for one in application["env"]} == {"XAI_TARGET": address}
    assert {one["mountPath"] for one in application["volumeMounts"]} == {str(socket.parent)}
    assert int(config.unix_mode, 8) & 0o020


def test_it_has_the_time_to_drain(pod, config):
    assert pod["terminationGracePeriodSeconds"] > config.drain_delay_s + config.drain_s
