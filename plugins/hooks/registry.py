"""MLflow as the place where people look: versions, their artifacts, tags, description and aliases.

Problem: a retry must not register a version twice, and an alias must not decide anything. Invariants: a version is
found again by release digest and run; everything is uploaded before the version exists; traffic is the
controller's, MLflow only tells of it.

`mlflow` is imported inside: it costs seconds, and a parsed DAG needs none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook

from plugins.hooks.controller import connection_url
from sluice.errors import RetryableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sluice.signature import Signature, TensorSpec

CONNECTION_ID: Final = "sluice_mlflow"
CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"
DIGEST_TAG, RUN_TAG = "digest", "run"
TRIES, TIMEOUT_S = "2", "60"  # Airflow retries the task; a call must not hang for MLflow's own two hours
LOGGED_MODEL: Final = "models:/m-"  # how the source of each version of ours begins
TEXT_LIMIT: Final = 90_000  # characters of a description; MLflow's column takes 100 000 bytes or more


class RegistryUnavailableError(RetryableError):
    """MLflow did not answer, or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What goes into the registry as one version. files: place among the version's artifacts -> folder. metrics: of
    its MLflow run and its logged model, so that MLflow's own charts compare versions; every value finite."""

    service: str
    digest: str
    run: str
    onnx: Path
    signature: Signature
    files: Mapping[str, Path]
    tags: Mapping[str, str]
    description: str
    metrics: Mapping[str, float] = field(default_factory=dict)


class Registry:
    """One MLflow server."""

    def __init__(self, url: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", TRIES)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT_S)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow

        self._mlflow, self._url = mlflow, url
        mlflow.set_tracking_uri(url)
        self.client: MlflowClient = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)

    def call(self, what: str, work: Any) -> Any:
        """Do `work`; MLflow's errors become one of ours that names the server."""
        import requests

        try:
            return work()
        except (self._mlflow.exceptions.MlflowException, requests.RequestException) as error:
            said = " ".join(str(error).split())[:400]
            raise RegistryUnavailableError(
                f"MLflow at {self._url} could not {what}: {said}",
                f"look at the server, or correct AIRFLOW_CONN_{CONNECTION_ID.upper()}; the task tries again",
            ) from error

    def find(self, service: str, digest: str, run: str) -> str | None:
        """The version that this run registered before; None when it did not."""
        wanted = f"name='{service}' and tag.`{DIGEST_TAG}`='{digest}' and tag.`{RUN_TAG}`='{run}'"
        found = self.call("search versions", lambda: self.client.search_model_versions(wanted))
        return max((str(version.version) for version in found), key=int, default=None)

    def register(self, entry: Entry) -> str:
        """Upload, then create the version; the number of the version. The same run again: its version."""
        self._ensure_model(entry.service)
        known = self.find(entry.service, entry.digest, entry.run)
        if known is None:
            known = self.call("register the version", lambda: self._register(entry))
        self.call(
            "set the alias", lambda: self.client.set_registered_model_alias(entry.service, CANDIDATE, known)
        )
        return known

    def _ensure_model(self, service: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(service, tags={"managed-by": "sluice"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise RegistryUnavailableError(
                    f"MLflow at {self._url} could not create model {service}: {error}", "look at the server"
                ) from error

    def _register(self, entry: Entry) -> str:
        mlflow = self._mlflow
        experiment = mlflow.set_experiment(f"sluice/{entry.service}")
        name = f"{entry.digest[:12]} {entry.run}"
        with mlflow.start_run(
            experiment_id=experiment.experiment_id, run_name=name, tags=dict(entry.tags)
        ) as run:
            model = self._log_onnx(entry)
            for place, folder in entry.files.items():
                self.client.log_model_artifacts(model.model_id, str(folder), place)
            if entry.metrics:
                mlflow.log_metrics(dict(entry.metrics), run_id=run.info.run_id, model_id=model.model_id)
            version = self.client.create_model_version(
                name=entry.service,
                source=f"models:/{model.model_id}",
                run_id=run.info.run_id,
                model_id=model.model_id,
                tags={**entry.tags, DIGEST_TAG: entry.digest, RUN_TAG: entry.run},
                description=entry.description[:TEXT_LIMIT],
            )
        return str(version.version)

    def _log_onnx(self, entry: Entry) -> Any:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its Linux wheel reports to its maker otherwise
        import mlflow.onnx
        import onnx
        import onnxruntime

        pinned = [f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"]
        return mlflow.onnx.log_model(
            onnx.load(str(entry.onnx)),
            name="onnx",
            signature=_mlflow_signature(entry.signature),
            pip_requirements=pinned,  # named, because guessing them starts the model in a subprocess
        )

    def tag(self, service: str, version: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.call(
                f"tag version {version}",
                lambda name=name, value=value: self.client.set_model_version_tag(
                    service, version, name, value
                ),
            )

    def describe_above(self, service: str, version: str, text: str, *, marker: str) -> None:
        """Put `text` above the version's description, once: a line with `marker` says that it is there."""
        sign = f"<!-- {marker} -->"

        def work() -> None:
            old = self.client.get_model_version(service, version).description or ""
            kept = old.split(sign, 1)[1].lstrip() if sign in old else old
            self.client.update_model_version(service, version, f"{text}\n\n{sign}\n\n{kept}"[:TEXT_LIMIT])

        self.call(f"describe version {version}", work)

    def alias(self, service: str, alias: str) -> str | None:
        """The version that carries `alias`; None when none does."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(service, alias).version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise RegistryUnavailableError(
                f"MLflow at {self._url}: {error}", "the task tries again"
            ) from error

    def text(self, service: str, version: str, path: str) -> str | None:
        """One of a version's text files; None when it has none of that name, as an older version may not.

        Listed first: a file that is absent is another error for each kind of artifact store.
        """
        from mlflow.artifacts import load_text

        def work() -> str | None:
            source = str(self.client.get_model_version(service, version).source)
            model_id = source.removeprefix("models:/")
            if not source.startswith(LOGGED_MODEL):
                return None  # registered by somebody else, from another kind of source
            there = self.client.list_logged_model_artifacts(model_id, path.rpartition("/")[0])
            if path not in {item.path for item in there}:
                return None
            return str(load_text(f"models:/{service}/{version}/{path}"))

        found: str | None = self.call(f"read {path} of version {version}", work)
        return found

    def promote(self, service: str, version: str) -> None:
        """champion to `version`, previous to what was champion, candidate gone. Again: nothing changes."""
        old = self.alias(service, CHAMPION)
        if old is not None and old != version:
            self.call("set an alias", lambda: self.client.set_registered_model_alias(service, PREVIOUS, old))
        self.call("set an alias", lambda: self.client.set_registered_model_alias(service, CHAMPION, version))
        self.drop_candidate(service, version)

    def drop_candidate(self, service: str, version: str) -> None:
        """Take the candidate alias from `version`; one that moved on to a newer version stays there."""
        if self.alias(service, CANDIDATE) == version:
            self.call("drop an alias", lambda: self.client.delete_registered_model_alias(service, CANDIDATE))


class RegistryHook(BaseHook):
    """MLflow behind the Airflow connection `sluice_mlflow`."""

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = CONNECTION_ID
    hook_name = "MLflow (Sluice)"

    def __init__(self, mlflow_conn_id: str = CONNECTION_ID) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> Registry:
        return Registry(connection_url(self.get_connection(self.mlflow_conn_id)))


def _mlflow_signature(signature: Signature) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema
    from mlflow.types import TensorSpec as MlflowTensor

    def schema(tensors: Iterable[TensorSpec]) -> Schema:
        shapes = ((t, tuple(-1 if isinstance(dim, str) else dim for dim in t.dims)) for t in tensors)
        return Schema([MlflowTensor(np.dtype(t.dtype), shape, t.name) for t, shape in shapes])

    return ModelSignature(inputs=schema(signature.inputs), outputs=schema(signature.outputs))
