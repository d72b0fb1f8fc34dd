"""What the cluster tests share: a started emulator, and a client that waits for states by watching."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from kubernetes import client, config, watch

REPO = Path(__file__).resolve().parents[3]
PYTHON = "python:3.11-slim"  # a real cluster pulls it; the emulator maps it to this interpreter
WAIT_S = 60


class Emulator:
    """`python -m local.cluster` as a user starts it. Its output is in `folder/out`."""

    def __init__(self, folder: Path, *flags: str, images: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.kubeconfig = folder / "kubeconfig"
        environment = {"path": [str(Path(sys.executable).parent)], "cwd": str(folder), "env": {}}
        (folder / "images.json").write_text(json.dumps(images or {"python:*": environment}))
        self._flags = flags
        self.url = ""

    def start(self) -> Emulator:
        """Returns when it serves. RuntimeError: it ended instead; the text holds its output."""
        argv = [sys.executable, "-m", "local.cluster", "--port", "0", "--state", str(self.state)]
        argv += ["--images", str(self.folder / "images.json"), "--kubeconfig", str(self.kubeconfig)]
        argv += ["--back-off-s", "0.2", "--back-off-cap-s", "1", *self._flags]
        self.process = subprocess.Popen(
            argv,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "errors").open("a"),
            text=True,
            start_new_session=True,
        )
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if match := re.search(r"ready on (\S+)", line):
                self.url, self.output = match.group(1), "".join(seen)
                return self
        raise RuntimeError(f"no cluster: {''.join(seen)}{(self.folder / 'errors').read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        self.process.stdout.close()
        return code

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, JSON) of a plain request."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def fault(self, **body: Any) -> Any:
        status, answer = self.call("POST", "/_faults", body)
        assert status == 200, answer
        return answer

    def clear(self) -> None:
        self.call("DELETE", "/_faults")


class Kube:
    """The official client in one namespace. Waiting is watching: no test sleeps."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.api = config.new_client_from_config(str(kubeconfig))
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)

    def __enter__(self) -> Kube:
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.core.delete_namespace(self.namespace)
        self.api.close()

    def create_pod(self, body: dict[str, Any]) -> Any:
        return self.core.create_namespaced_pod(self.namespace, body)

    def pod(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, self.namespace)

    def log(self, name: str, **options: Any) -> str:
        """The text, which the client would hand out as the repr of its bytes."""
        answer = self.core.read_namespaced_pod_log(name, self.namespace, _preload_content=False, **options)
        return answer.data.decode()

    def follow(self, name: str) -> Any:
        """The open answer, for reading as it comes."""
        return self.core.read_namespaced_pod_log(name, self.namespace, follow=True, _preload_content=False)

    def await_pod(self, name: str, test: Callable[[Any], bool], wait_s: int = WAIT_S) -> Any:
        """The first state of a pod that passes, by list and watch."""
        return self._await(self.core.list_namespaced_pod, name, test, wait_s)

    def await_phase(self, name: str, *phases: str) -> Any:
        return self.await_pod(name, lambda pod: pod.status.phase in phases)

    def await_deployment(self, name: str, test: Callable[[Any], bool]) -> Any:
        return self._await(self.apps.list_namespaced_deployment, name, test, WAIT_S)

    def await_endpoints(self, name: str, test: Callable[[set[str]], bool]) -> set[str]:
        """The ready addresses, once they pass."""

        def passes(endpoints: Any) -> bool:
            return test(addresses(endpoints))

        return addresses(self._await(self.core.list_namespaced_endpoints, name, passes, WAIT_S))

    def await_event(self, reason: str, about: str) -> Any:
        watcher = watch.Watch()
        selector = f"involvedObject.name={about},reason={reason}"
        stream = watcher.stream(
            self.core.list_namespaced_event, self.namespace, field_selector=selector, timeout_seconds=WAIT_S
        )
        for event in stream:
            watcher.stop()
            return event["object"]
        raise AssertionError(f"no event {reason} about {about} within {WAIT_S} s")

    def await_gone(self, name: str) -> None:
        watcher = watch.Watch()
        listed = self.core.list_namespaced_pod(self.namespace, field_selector=f"metadata.name={name}")
        if not listed.items:
            return
        for event in watcher.stream(
            self.core.list_namespaced_pod,
            self.namespace,
            field_selector=f"metadata.name={name}",
            resource_version=listed.metadata.resource_version,
            timeout_seconds=WAIT_S,
        ):
            if event["type"] == "DELETED":
                watcher.stop()
                return
        raise AssertionError(f"pod {name} is still there after {WAIT_S} s")

    def _await(self, lister: Callable[..., Any], name: str, test: Callable[[Any], bool], wait_s: int) -> Any:
        watcher, last = watch.Watch(), None
        selector = f"metadata.name={name}"
        stream = watcher.stream(lister, self.namespace, field_selector=selector, timeout_seconds=wait_s)
        for event in stream:
            last = event["object"]
            if event["type"] != "DELETED" and test(last):
                watcher.stop()
                return last
        raise AssertionError(f"{name} did not get there within {wait_s} s; last seen: {last}")


def addresses(endpoints: Any) -> set[str]:
    return {one.ip for subset in endpoints.subsets or [] for one in subset.addresses or []}


def pod(name: str, code: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container `main` that runs Python code; `container` updates that container."""
    container = {"name": "main", "image": PYTHON, "command": ["python", "-u", "-c", code]}
    container.update(spec.pop("container", {}))
    labels = spec.pop("labels", {"app": name})
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"metadata": {"name": name, "labels": labels}, "spec": body}


POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
# Serves 200 on / while the file `sick` is absent from its folder, told by the environment as SICK.
SERVER = """
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/sicken": open(os.environ["SICK"], "w").close()
        if self.path == "/heal" and os.path.exists(os.environ["SICK"]): os.remove(os.environ["SICK"])
        ill = self.path == "/" and os.path.exists(os.environ["SICK"])
        self.send_response(503 if ill else 200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8000), H).serve_forever()
"""


def deployment(name: str, replicas: int, code: str = SERVER, **container: Any) -> dict[str, Any]:
    """A Deployment of `SERVER` with a readiness probe on port 8000 and an emptyDir for its file."""
    main = {
        "name": "main",
        "image": PYTHON,
        "command": ["python", "-u", "-c", code],
        "env": [POD_IP, {"name": "SICK", "value": "/var/run/test/sick"}],
        "ports": [{"containerPort": 8000, "name": "http"}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/var/run/test"}],
        "readinessProbe": {
            "httpGet": {"path": "/", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        **container,
    }
    labels = {"app": name}
    spec = {
        "terminationGracePeriodSeconds": 2,
        "containers": [main],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": body}


SERVICE_PORT = 8080  # the emulator binds it on this machine, where one below 1024 needs a right


def service(name: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": SERVICE_PORT, "targetPort": "http"}]
    return {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}}


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
