"""The manifest for Kubernetes agrees with the server's options and with the image."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from wsproto_sip.cli import main

yaml = pytest.importorskip("yaml", reason="pyyaml is missing: pip install -e '.[test]'")

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"


def manifest() -> dict[str, Any]:
    """Return the objects of the manifest by their kind."""
    text = (DEPLOY / "kubernetes" / "wsproto-sip.yaml").read_text(encoding="utf-8")
    return {item["kind"]: item for item in yaml.safe_load_all(text)}


def test_configuration_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(manifest()["ConfigMap"]["data"]["serve.toml"])
    assert main(["serve", "--check-config", "--config", str(file)]) == 0, capsys.readouterr().err


def test_probes_and_times_fit_the_configuration() -> None:
    found = manifest()
    config = tomllib.loads(found["ConfigMap"]["data"]["serve.toml"])
    pod = found["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [port] = container["ports"]
    assert config["listen"] == [f"ws://0.0.0.0:{port['containerPort']}"]
    for probe, path in (("readinessProbe", "ready"), ("livenessProbe", "health")):
        assert container[probe]["httpGet"] == {"path": config[path], "port": port["name"]}
    assert pod["terminationGracePeriodSeconds"] > config["drain-seconds"]
    [exposed] = found["Service"]["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]


def test_image_is_that_of_the_containerfile() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    [container] = manifest()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert re.findall(r"^USER (\d+):", text, re.M) == [
        str(container["securityContext"]["runAsUser"])
    ]
    [mount] = container["volumeMounts"]
    assert f'"--config", "{mount["mountPath"]}/serve.toml"' in text
