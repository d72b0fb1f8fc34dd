"""The command line and environment of every part. Only addresses differ from a cluster's."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from artifacts.tree import file_digest
from local.stack.processes import Program, free_ports
from sluice.cpu import cpu_arch, parse_cpuinfo
from sluice.digest import sha256_json
from sluice.errors import FatalError
from sluice.spec import parse_spec

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
RECORDER_FLUSH_S = "5"  # so that what was just sent can be calibrated on
POD_CODE = ("sluice", "artifacts", "build_images", "calibration", "serving/runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything is: one folder of state, one port per part, the token of the controller, the images' tag."""

    root: Path
    dags: Path
    airflow: int
    mlflow: int
    prometheus: int
    gateway: int
    gateway_admin: int
    controller: int
    xds: int
    cluster: int
    recorder: int
    worker_logs: int
    trigger_logs: int
    token: str
    image_tag: str

    @classmethod
    def make(cls, root: Path, dags: Path) -> Layout:
        parts = [field.name for field in fields(cls) if field.type == "int"]
        ports = dict(zip(parts, free_ports(len(parts)), strict=True))
        return cls(root=root, dags=dags, token=secrets.token_urlsafe(24), image_tag=image_tag(REPO), **ports)

    def url(self, part: str) -> str:
        return f"http://{HOST}:{getattr(self, part)}"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "cluster" / "kubeconfig"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def recordings(self) -> Path:
        """Within the store, where calibration's pods see it."""
        return self.store / "recordings"

    def log(self, part: str) -> Path:
        return self.root / "logs" / f"{part}.log"


def python(layout: Layout, name: str, *argv: str, env: dict[str, str] | None = None) -> Program:
    """One of our own modules as a program."""
    base = {"PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
    return Program(
        name=name,
        argv=(sys.executable, "-m", *argv),
        log=layout.log(name),
        env={**base, **(env or {})},
        cwd=REPO,
    )


def cluster(layout: Layout) -> Program:
    folder = layout.root / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images.json"
    image = {"path": [str(BIN)], "cwd": str(REPO), "env": {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}}
    images.write_text(
        json.dumps({f"sluice/*:{layout.image_tag}": image})
    )  # the tree is this one build, no other
    flags = ("--state", str(folder), "--images", str(images), "--kubeconfig", str(layout.kubeconfig))
    return python(layout, "cluster", "local.cluster", "--port", str(layout.cluster), *flags)


def controller(layout: Layout) -> Program:
    folder = layout.root / "controller"
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.write_text(layout.token)
    token.chmod(0o600)
    return python(
        layout,
        "controller",
        *("serving.control", "--host", HOST, "--port", str(layout.controller), "--xds-port", str(layout.xds)),
        *("--ledger", f"sqlite:///{folder / 'ledger.db'}", "--token-file", str(token)),
        *("--kubeconfig", str(layout.kubeconfig), "--namespace", "default"),
        *("--prometheus", layout.url("prometheus")),
    )


def gateway(layout: Layout) -> Program:
    return python(
        layout,
        "gateway",
        *("serving.gateway", "--listen", f"{HOST}:{layout.gateway}", "--xds", f"{HOST}:{layout.xds}"),
        *("--node", "gateway-0", "--admin", f"{HOST}:{layout.gateway_admin}"),
    )


def recorder(layout: Layout) -> Program | None:
    """Keeps inputs of every service whose spec records; None when there is none."""
    env = sluice_env(layout)
    files = sorted((layout.dags / "models").glob("*.yaml"))
    specs = {file: parse_spec(file.read_text(encoding="utf-8"), env).recording for file in files}
    recorded = [file for file, section in specs.items() if section is not None and section.recorder]
    if not recorded:
        return None
    words = [word for file in recorded for word in ("--spec", str(file))]
    where = ("--host", HOST, "--port", str(layout.recorder), "--out", str(layout.recordings))
    return python(
        layout, "recorder", "serving.recorder", *words, *where, "--flush-s", RECORDER_FLUSH_S, env=env
    )


def prometheus(layout: Layout) -> Program:
    binary = shutil.which("prometheus")
    if binary is None:
        raise FatalError("prometheus is not installed", next_step="make setup")
    folder = layout.root / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: sluice-controller\n"
        f"    static_configs: [{{targets: ['{HOST}:{layout.controller}']}}]\n"
        "  - job_name: gateway\n"
        "    scrape_interval: 5s\n"
        "    metrics_path: /stats/prometheus\n"
        f"    static_configs: [{{targets: ['{HOST}:{layout.gateway_admin}']}}]\n"
    )
    argv = (binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}")
    listen = (f"--web.listen-address={HOST}:{layout.prometheus}", "--storage.tsdb.retention.time=2d")
    return Program(name="prometheus", argv=(*argv, *listen), log=layout.log("prometheus"))


def mlflow(layout: Layout) -> Program:
    folder = layout.root / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    stores = ("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination")
    argv = (str(BIN / "mlflow"), "server", *stores, str(folder / "artifacts"), "--host", HOST, "--port")
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PATH": path_with_venv()}
    argv = (*argv, str(layout.mlflow), "--workers", "1")
    return Program(name="mlflow", argv=argv, log=layout.log("mlflow"), env=env, cwd=folder)


# LocalExecutor forks every task from the scheduler: what that has imported, no task imports again.
LOCAL_SETTINGS = """import sys

if "scheduler" in sys.argv:
    import airflow.providers.cncf.kubernetes.operators.pod
    import plugins.promotion
"""


def airflow(layout: Layout) -> Program:
    home = layout.root / "airflow"
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "airflow_local_settings.py").write_text(LOCAL_SETTINGS)
    (home / "passwords.json").write_text(json.dumps({"admin": "admin"}))
    argv = (str(BIN / "airflow"), "standalone")
    env = {**airflow_env(layout, home), **sluice_env(layout)}
    return Program(name="airflow", argv=argv, log=layout.log("airflow"), env=env, cwd=home)


def airflow_env(layout: Layout, home: Path) -> dict[str, str]:
    """Airflow on its own port, quick to notice, without examples; documented under Airflow's option names."""
    url = layout.url("airflow")
    options = {
        "CORE__DAGS_FOLDER": layout.dags,
        "CORE__PLUGINS_FOLDER": REPO / "plugins",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__PARALLELISM": "6",
        "CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{layout.airflow}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "API__HOST": HOST,
        "API__PORT": layout.airflow,
        "API__BASE_URL": url,
        "API__WORKERS": "1",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        # A killed scheduler's tasks are looked for after this long; Airflow's default is 5 minutes.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        # A supervisor may notice only at its next heartbeat (5 s by default) that its task was skipped, failed or
        # marked. Failed heartbeats are borne for as long as by default.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "WORKERS__MAX_FAILED_HEARTBEATS": "15",
        "LOGGING__LOGGING_LEVEL": "INFO",
        "LOGGING__WORKER_LOG_SERVER_PORT": layout.worker_logs,
        "LOGGING__TRIGGER_LOG_SERVER_PORT": layout.trigger_logs,
    }
    named = {f"AIRFLOW__{name}": str(value) for name, value in options.items()}
    extras = {"AIRFLOW_HOME": str(home), "PATH": path_with_venv(), "PYTHONPATH": str(REPO)}
    quiet = {"GX_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {**named, **extras, **quiet, "no_proxy": "*", "OMP_NUM_THREADS": "1"}


def sluice_env(layout: Layout) -> dict[str, str]:
    """The addresses that `plugins/` and the specs read; see docs/architecture.md."""
    kubernetes = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(layout.kubeconfig)}}
    return {
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(kubernetes),
        "AIRFLOW_CONN_SLUICE_CONTROLLER": f"http://:{layout.token}@{HOST}:{layout.controller}",
        "AIRFLOW_CONN_SLUICE_PROMETHEUS": layout.url("prometheus"),
        "AIRFLOW_CONN_SLUICE_MLFLOW": layout.url("mlflow"),
        "SLUICE_STORE": str(layout.store),
        "SLUICE_STORE_VOLUME": json.dumps({"hostPath": {"path": str(layout.store)}}),
        "SLUICE_NAMESPACE": "default",
        "SLUICE_CHECKPOINTS": str(layout.checkpoints),
        "SLUICE_RECORDER": layout.url("recorder"),
        "SLUICE_IMAGE_TAG": layout.image_tag,
        "SLUICE_CPU_ARCH": cpu_arch(parse_cpuinfo(Path("/proc/cpuinfo").read_text())),
    }


def image_tag(repo: Path) -> str:
    """`dev-<digest>` of the code that runs in pods and of the packages it runs on: other code is another image.

    The working tree stands for every image; under one fixed tag, the store would answer for code that has changed.
    """
    code = (path for folder in POD_CODE for path in (repo / folder).rglob("*.py") if path.is_file())
    files = sorted([repo / "requirements.txt", *code])
    digests = {str(path.relative_to(repo)): file_digest(path).sha256 for path in files}
    return f"dev-{sha256_json(digests)[:16]}"


def path_with_venv() -> str:
    """PATH with the environment's programs first: Airflow starts `airflow`, MLflow starts its server, by name."""
    return f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
