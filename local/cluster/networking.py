"""Services: endpoints of the pods that are ready, and a forwarder on the service's own address."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Iterator

from local.cluster import errors
from local.cluster.addresses import Addresses
from local.cluster.controller import Controller
from local.cluster.errors import ApiError
from local.cluster.objects import (
    Object,
    copy,
    is_deleting,
    is_ready,
    is_terminal,
    key_of,
    labels_of,
    named_port,
)
from local.cluster.resources import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES, Resource
from local.cluster.store import Change, Store
from local.cluster.workloads import reference


class EndpointsController(Controller):
    """Key: namespace/service. Writes Endpoints and one EndpointSlice."""

    def interest(self, change: Change) -> None:
        if change.resource is SERVICES:
            self.enqueue("/".join(key_of(change.obj)))
        elif change.resource is PODS:
            seen = [one for one in (change.obj, change.old) if one is not None]
            for service in self.store.list(SERVICES, change.obj["metadata"]["namespace"]):
                if any(_selects(service, pod) for pod in seen):
                    self.enqueue("/".join(key_of(service)))

    def reconcile(self, key: str) -> None:
        namespace, name = key.split("/")
        service = self.store.find(SERVICES, namespace, name)
        if service is None:
            for resource in (ENDPOINTS, ENDPOINTSLICES):
                if self.store.find(resource, namespace, name) is not None:
                    self.store.remove(resource, namespace, name)
            return
        if not service["spec"].get("selector"):
            return  # its endpoints are written by hand
        pods = [pod for pod in self.store.list(PODS, namespace) if _serves(service, pod)]
        subsets = list(_subsets(service, pods))
        self._put(ENDPOINTS, service, {"subsets": subsets})
        self._put(ENDPOINTSLICES, service, _slice(service, pods))

    def _put(self, resource: Resource, service: Object, content: Object) -> None:
        namespace, name = key_of(service)
        labels = dict(labels_of(service))
        if resource is ENDPOINTSLICES:
            labels["kubernetes.io/service-name"] = name
        if self.store.find(resource, namespace, name) is None:
            meta = {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": [reference(service)],
            }
            made = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta, **content}
            self.store.create(resource, made)
            return

        def write(obj: Object) -> None:
            obj["metadata"]["labels"] = labels
            obj.update(copy(content))

        self.store.mutate(resource, namespace, name, write)


def _selects(service: Object, pod: Object) -> bool:
    selector = service["spec"].get("selector") or {}
    labels = labels_of(pod)
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _serves(service: Object, pod: Object) -> bool:
    """A pod that is being deleted is out at once, before its process has noticed."""
    known = (pod.get("status") or {}).get("podIP")
    return bool(known) and _selects(service, pod) and not is_terminal(pod) and not is_deleting(pod)


def _address(pod: Object) -> Object:
    meta = pod["metadata"]
    target = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
    return {"ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"], "targetRef": target}


def _ports(service: Object, pod: Object) -> list[Object]:
    found = []
    for port in service["spec"].get("ports") or []:
        number = named_port(pod, port["targetPort"])
        if number is not None:
            one = {"port": number, "protocol": port["protocol"]}
            found.append({**one, "name": port["name"]} if port.get("name") else one)
    return found


def _subsets(service: Object, pods: list[Object]) -> Iterator[Object]:
    """One subset for each set of port numbers that pods have (a named port may differ between pods)."""
    groups: dict[str, Object] = {}
    for pod in pods:
        ports = _ports(service, pod)
        group = groups.setdefault(str(ports), {"ports": ports})
        ready = is_ready(pod) or service["spec"].get("publishNotReadyAddresses")
        group.setdefault("addresses" if ready else "notReadyAddresses", []).append(_address(pod))
    yield from groups.values()


def _slice(service: Object, pods: list[Object]) -> Object:
    endpoints = [
        {
            "addresses": [pod["status"]["podIP"]],
            "conditions": {"ready": is_ready(pod), "serving": is_ready(pod), "terminating": False},
            "targetRef": _address(pod)["targetRef"],
            "nodeName": pod["spec"]["nodeName"],
        }
        for pod in pods
    ]
    ports = _ports(service, pods[0]) if pods else []
    return {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", **port} for port in ports]}


class Forwarder:
    """A service's cluster IP: TCP connections go to its ready endpoints in turn, each to one for its life.

    For people and tools on this machine; the gateway talks to the endpoints themselves. Invariant: a service that
    is stored has its listeners, and whoever removes it, its listeners and its address go with it.
    """

    def __init__(self, store: Store, addresses: Addresses) -> None:
        self._store = store
        self._addresses = addresses
        self._servers: dict[str, list[asyncio.Server]] = {}  # by cluster IP
        self._turn = itertools.count()
        store.subscribe(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.resource is SERVICES and change.type == "DELETED":
            self.close(change.obj)

    async def open(self, service: Object) -> None:
        """Gives a service that is about to be stored its address, unless it is headless, and listens there.

        Raises 422 naming the field; then nothing of it is left.
        """
        spec = service["spec"]
        if not spec.get("clusterIP"):
            spec["clusterIP"] = self._addresses.take()
        spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["clusterIP"] == "None":
            return
        if spec["clusterIP"] in self._servers:
            raise _invalid(service, "spec.clusterIP", f"{spec['clusterIP']} is another service's")
        servers = self._servers[spec["clusterIP"]] = []
        try:
            for place, port in enumerate(spec["ports"]):
                servers.append(await self._listen(service, f"spec.ports[{place}].port", port))
        except BaseException:  # also of a request that is given up
            self.close(service)
            raise

    async def _listen(self, service: Object, path: str, port: Object) -> asyncio.Server:
        serve = functools.partial(self._serve, key_of(service), port)
        address = service["spec"]["clusterIP"]
        try:
            return await asyncio.start_server(serve, address, port["port"])
        except OSError as error:
            why = (
                "choose one above 1023" if isinstance(error, PermissionError) else "free it or choose another"
            )
            text = f"{port['port']} cannot be opened on {address} ({error.strerror or error}); {why}"
            raise _invalid(service, path, text) from error

    def close(self, service: Object) -> None:
        """Ends the listeners of a service and frees its address; new connections are refused."""
        address = service["spec"]["clusterIP"]
        for server in self._servers.pop(address, []):
            server.close()
        self._addresses.give_back(address)

    async def _serve(
        self, key: tuple[str, str], port: Object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        targets = list(self._targets(key, port.get("name")))
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if not targets:
                return  # the client sees its connection closed, as with a real service without endpoints
            host, number = targets[next(self._turn) % len(targets)]
            there_reader, there_writer = await asyncio.open_connection(host, number)
            with contextlib.closing(there_writer):
                await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    def _targets(self, key: tuple[str, str], name: str | None) -> Iterator[tuple[str, int]]:
        endpoints = self._store.find(ENDPOINTS, *key) or {}
        for subset in endpoints.get("subsets") or []:
            for port in subset.get("ports") or []:
                if port.get("name") == name:
                    yield from ((one["ip"], port["port"]) for one in subset.get("addresses") or [])


def _invalid(service: Object, path: str, why: str) -> ApiError:
    return errors.invalid("Service", service["metadata"]["name"], [(path, why)])


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
