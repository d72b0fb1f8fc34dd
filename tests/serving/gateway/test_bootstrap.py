"""The bootstrap is fixed, Envoy accepts it, and wrong usage is told by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.gateway.__main__ import envoy_path, main
from serving.gateway.bootstrap import Address, bootstrap

USUAL = ["--listen", "127.0.0.1:8080", "--xds", "127.0.0.1:8641", "--node", "gateway-1"]


@pytest.mark.parametrize("extra", [[], ["--admin", "127.0.0.1:9901"]], ids=["without admin", "with admin"])
@pytest.mark.parametrize("xds", ["127.0.0.1:8641", "sluice-controller.default:8641"], ids=["address", "name"])
def test_envoy_accepts_what_is_printed(
    extra: list[str], xds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed JSON is a whole configuration, for a controller by address and by name."""
    assert main([*USUAL, "--xds", xds, *extra, "--print"]) == 0
    file = tmp_path / "bootstrap.json"
    file.write_text(capsys.readouterr().out)
    checked = subprocess.run(
        [envoy_path(), "--mode", "validate", "--use-dynamic-base-id", "-c", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert ("admin" in json.loads(file.read_text())) == bool(extra)


def test_the_bootstrap_knows_no_service_and_lets_nobody_set_weights() -> None:
    """No version, no weight, no admin layer over the controller's."""
    config = bootstrap(
        node="g", listen=Address(host="0.0.0.0", port=80), xds=Address(host="controller", port=8641)
    )
    assert [layer["name"] for layer in config["layered_runtime"]["layers"]] == ["sluice"]
    assert [cluster["name"] for cluster in config["static_resources"]["clusters"]] == ["sluice-controller"]
    assert "weight" not in json.dumps(config)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--listen", "gateway:80", "give an IP address"),
        ("--listen", "8080", "give host:port"),
        ("--xds", "controller", "give host:port"),
        ("--admin", "127.0.0.1:x", "give host:port"),
    ],
)
def test_a_wrong_address_is_named(
    flag: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage errors end with 2 and name the flag and the next step."""
    with pytest.raises(SystemExit) as ended:
        main([*USUAL, flag, value])
    assert ended.value.code == 2
    words = capsys.readouterr().err
    assert flag in words
    assert said in words


def test_signals_reach_envoy_itself() -> None:
    """The launcher becomes Envoy: one process, nothing left behind."""
    command = [sys.executable, "-m", "serving.gateway", "--log-level", "info", "--node", "g"]
    started = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--xds", "127.0.0.1:1"], stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    line = next(line for line in started.stderr if "main dispatch loop" in line)
    name = Path(f"/proc/{started.pid}/comm").read_text().strip()
    started.terminate()
    rest = started.stderr.read()
    assert started.wait() == 0
    assert "ENVOY_SIGTERM" in rest
    assert name.startswith("envoy"), (name, line)
