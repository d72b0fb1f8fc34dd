"""What is asked of Debian, and what a person is told where a package cannot be had."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "env", "mktemp", "tail", "cat")
# Ubuntu's apt-get: there is no kubernetes-client. Each call is written down with the variable that keeps it quiet.
APT_GET = """#!/bin/bash
echo "apt-get $* [$DEBIAN_FRONTEND]" >>{calls}
[[ "$*" != *kubernetes-client* ]] || {{ echo "E: Unable to locate package kubernetes-client"; exit 100; }}
"""
# Like the real one it hands on nothing of the caller's environment.
SUDO = """#!/bin/bash
{passwordless} || exit 1
[ "$1" = -n ] || exec env -i PATH="$PATH" "$@"
"""


@pytest.fixture
def machine(tmp_path):
    """`machine(user=…, passwordless=…)`: runs debian.sh on a machine that has none of our programs."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    calls.touch()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))

    def put(name, text):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(*pairs, user=1000, passwordless=True):
        put("apt-get", APT_GET.format(calls=calls))
        put("sudo", SUDO.format(passwordless=str(passwordless).lower()))
        put("id", f"#!/bin/bash\necho {user}\n")
        put("tee", "#!/bin/bash\ncat\n")
        for name in ("chmod", "rm"):
            put(name, "#!/bin/bash\n")
        argv = ["bash", str(REPO / "local" / "debian.sh"), *pairs]
        env = {"PATH": str(programs), "TMPDIR": str(tmp_path)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()

    return run


BOTH = ("kubectl:kubernetes-client", "prometheus:prometheus")


@pytest.mark.parametrize("user", [0, 1000])
def test_packages_are_asked_for_one_by_one_without_a_question_to_anybody(machine, user):
    """One name that apt-get does not know would otherwise keep it from installing any of them."""
    code, said, calls = machine(*BOTH, user=user)
    assert code == 1
    assert calls == [
        "apt-get update -qq [noninteractive]",
        "apt-get install -y -qq --no-install-recommends kubernetes-client [noninteractive]",
        "apt-get install -y -qq --no-install-recommends prometheus [noninteractive]",
    ]
    assert "Unable to locate package" in said
    assert "snap install kubectl --classic" in said


def test_what_can_be_had_is_had(machine):
    code, said, _ = machine("prometheus:prometheus")
    assert (code, "snap" in said) == (0, False)


def test_a_program_that_is_there_is_not_asked_for(machine):
    assert machine("bash:bash") == (0, "", [])


def test_without_rights_the_one_command_is_printed_and_nothing_is_run(machine):
    code, said, calls = machine(*BOTH, passwordless=False)
    assert (code, calls) == (1, [])
    assert "sudo apt-get install -y --no-install-recommends kubernetes-client prometheus" in said
    assert "snap install kubectl --classic" in said


def make(target, **env):
    argv = ["make", "--dry-run", "--always-make", target]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        argv, cwd=REPO, env={**clean, **env}, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("target", ["setup", "demo", "up", "check"])
def test_only_the_tests_ask_for_kubectl(target):
    assert "debian.sh prometheus:prometheus\n" in make(target)
    assert "kubectl" not in make(target)
    assert "debian.sh kubectl:kubernetes-client" in make("test")


def test_tests_go_on_without_kubectl_unless_it_is_ci():
    """The recipe as make would run it, with a debian.sh that could not install anything."""
    (recipe,) = [line for line in make("kubectl").splitlines() if "kubectl" in line]
    failing = recipe.replace("bash local/debian.sh kubectl:kubernetes-client", "false")
    assert failing != recipe
    codes = [
        subprocess.run(["bash", "-c", failing], env={"CI": ci}, check=False).returncode for ci in ("", "1")
    ]
    assert codes == [0, 1]
