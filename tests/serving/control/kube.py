"""A Kubernetes API with exactly the three calls that the controller makes, over real HTTP.

list and watch of Endpoints, read and patch of a Deployment's scale. A test says which pods are ready; scaling a
deployment makes them ready by itself unless `slow`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

PORT = 8000


class Kube:
    def __init__(self) -> None:
        self.replicas: dict[str, int] = {}
        self.ready: dict[str, int] = {}
        self.slow = False
        self.patches: list[tuple[str, int]] = []
        self._version = 1
        self._watches: list[asyncio.Queue[dict[str, Any]]] = []

    @contextlib.asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[Path]:
        """Yields the kubeconfig's path."""
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/default/endpoints", self._endpoints)
        scale = "/apis/apps/v1/namespaces/default/deployments/{name}/scale"
        app.router.add_get(scale, self._read_scale)
        app.router.add_patch(scale, self._patch_scale)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        config = folder / "kubeconfig"
        config.write_text(json.dumps(_config(port)))
        try:
            yield config
        finally:
            await runner.cleanup()

    def deploy(self, name: str, replicas: int) -> None:
        self.replicas[name] = replicas
        self.set_ready(name, replicas)

    def set_ready(self, name: str, count: int) -> None:
        self.ready[name] = count
        self._version += 1
        for queue in self._watches:
            queue.put_nowait({"type": "MODIFIED", "object": self._item(name)})

    def _item(self, name: str) -> dict[str, Any]:
        host = 10 + sorted(self.replicas).index(name)
        addresses = [{"ip": f"127.1.{host}.{i + 1}"} for i in range(self.ready[name])]
        subsets = [{"addresses": addresses, "ports": [{"port": PORT}]}] if addresses else None
        meta = {"name": name, "namespace": "default", "resourceVersion": str(self._version)}
        return {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets}

    async def _endpoints(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("true", "True", "1"):
            items = [self._item(name) for name in self.replicas]
            meta = {"resourceVersion": str(self._version)}
            return web.json_response(
                {"kind": "EndpointsList", "apiVersion": "v1", "metadata": meta, "items": items}
            )
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watches.append(queue)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        finally:
            self._watches.remove(queue)

    def _scale(self, name: str) -> web.Response:
        if name not in self.replicas:
            return web.json_response({"kind": "Status", "code": 404, "message": f"no {name}"}, status=404)
        meta = {"name": name, "namespace": "default"}
        body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta}
        return web.json_response(body | {"spec": {"replicas": self.replicas[name]}})

    async def _read_scale(self, request: web.Request) -> web.Response:
        return self._scale(request.match_info["name"])

    async def _patch_scale(self, request: web.Request) -> web.Response:
        name, wanted = request.match_info["name"], (await request.json())["spec"]["replicas"]
        self.patches.append((name, wanted))
        self.replicas[name] = wanted
        if not self.slow:
            self.set_ready(name, wanted)
        return self._scale(name)


def _config(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "t", "user": {}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        "current-context": "t",
    }
