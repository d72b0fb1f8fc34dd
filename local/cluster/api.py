"""The HTTP side: addresses to handlers, objects to JSON or tables, refusals to Status objects."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from local.cluster import errors, openapi, resources
from local.cluster.cluster import Cluster
from local.cluster.errors import ApiError
from local.cluster.objects import Object
from local.cluster.resources import BY_PLURAL, GROUPS
from local.cluster.tables import table
from local.cluster.verbs import Target, Verbs

_PATH: Final = re.compile(
    r"^/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<ns>[^/]+)(?=/[^/]))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>.+))?)?$"
)
_DEFAULT_WATCH_S: Final = 3600.0
_MAX_HEADER: Final = 4000  # characters
_MAX_BODY: Final = 8 * 2**20  # bytes; a real server takes 3 MiB
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the Accept header asks for: plain objects or a Table."""

    as_table: bool
    include: str

    @classmethod
    def of(cls, request: web.Request) -> Wanted:
        """The first media type that can be served. Raises 406 when none can."""
        accept = request.headers.get("Accept", "application/json")
        for part in accept.split(","):
            kind, *parameters = (piece.strip() for piece in part.split(";"))
            options = dict(one.split("=", 1) for one in parameters if "=" in one)
            if kind not in {"application/json", "*/*", "application/*", "application/yaml"}:
                continue
            if options.get("as") == "Table" and options.get("g") == "meta.k8s.io":
                return cls(as_table=True, include=request.query.get("includeObject", "Metadata"))
            if "as" not in options:
                return cls(as_table=False, include="")
        raise ApiError(406, "NotAcceptable", f"none of {accept!r} can be served; accept application/json")


def parse(path: str) -> Target:
    """The target of an address. Raises 501 for kinds and groups that are not served, 404 for other addresses."""
    match = _PATH.match(path.rstrip("/"))
    if match is None:
        raise ApiError(404, "NotFound", f"the server could not find the requested resource {path}")
    group, plural = match["group"] or "", match["plural"]
    resource = BY_PLURAL.get((group, plural))
    if resource is None or (match["version"] or "v1") != resource.version:
        version = f"{group}/{match['version']}" if group else "v1"
        raise errors.not_implemented(f"{plural} of {version}")
    if match["sub"] and match["sub"] not in resource.subresources:
        raise errors.not_implemented(f"the subresource {plural}/{match['sub']}")
    namespace = match["ns"] if resource.namespaced else None
    return Target(resource=resource, namespace=namespace, name=match["name"], sub=match["sub"])


class Api:
    """The aiohttp application of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._verbs = Verbs(cluster)
        self.app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._refusals])
        add = self.app.router.add_route
        add("*", "/_faults", self._faults)
        for path, answer in self._documents().items():
            add("GET", path, answer)
        add("*", "/{path:.*}", self._dispatch)

    def _documents(self) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        """Addresses whose answer never changes."""

        def fixed(
            make: Callable[[web.Request], Any],
        ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
            async def answer(request: web.Request) -> web.StreamResponse:
                return web.json_response(make(request))

            return answer

        async def healthy(_: web.Request) -> web.StreamResponse:
            return web.Response(text="ok")

        found = dict.fromkeys(("/healthz", "/livez", "/readyz"), healthy)
        found["/version"] = fixed(lambda _: resources.VERSION)
        found["/api"] = fixed(lambda request: resources.api_versions(request.host))
        found["/apis"] = fixed(lambda _: resources.api_groups())
        found["/api/v1"] = fixed(lambda _: resources.api_resources(""))
        for group in GROUPS:
            one = {"kind": "APIGroup", "apiVersion": "v1", **resources.api_group(group)}
            found[f"/apis/{group}"] = fixed(lambda _, one=one: one)
            found[f"/apis/{group}/v1"] = fixed(lambda _, group=group: resources.api_resources(group))
        found["/openapi/v2"] = self._openapi
        return found

    @staticmethod
    async def _openapi(request: web.Request) -> web.StreamResponse:
        if "protobuf" in request.headers.get("Accept", ""):
            return web.Response(body=openapi.protobuf(), headers={"Content-Type": openapi.PROTOBUF})
        return web.json_response(openapi.document())

    @web.middleware
    async def _refusals(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            error = None if request.path == "/_faults" else self._cluster.faults.refuse(request.path)
            if error is not None:
                raise error
            return await handler(request)
        except ApiError as error:
            return web.json_response(error.status(), status=error.code)
        except web.HTTPException:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # A body of the wrong shape that no check named: the caller's fault as far as we know, and told so.
            _log.exception("%s %s", request.method, request.path)
            told = errors.bad_request(f"{request.method} {request.path}: {type(error).__name__}: {error}")
            return web.json_response(told.status(), status=told.code)

    async def _faults(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.json_response(await self._cluster.break_on_request(await _body(request)))
        if request.method == "DELETE":
            self._cluster.clear_faults()
        elif request.method != "GET":
            raise ApiError(405, "MethodNotAllowed", "use GET, POST or DELETE on /_faults")
        return web.json_response({"faults": self._cluster.faults.standing})

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        target = parse(request.path)
        watched = request.query.get("watch") in {"true", "True", "1"}
        if request.method == "GET" and watched:
            return await self._watch(request, target)
        if request.method == "GET" and target.sub == "log":
            return await self._log(request, target)
        if request.method == "GET":
            return self._get(request, target)
        body = await _body(request)
        if request.method == "POST":
            return self._written(*await self._verbs.create(target, body, request.query), status=201)
        if request.method == "PUT":
            return self._written(*self._verbs.replace(target, body, request.query))
        if request.method == "PATCH":
            kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
            return self._written(*self._verbs.patch(target, kind, body, request.query))
        if request.method == "DELETE":
            return web.json_response(self._verbs.delete(target, body or {}, request.query))
        raise ApiError(405, "MethodNotAllowed", f"{request.method} is not a verb of this API")

    @staticmethod
    def _written(obj: Object, warnings: list[str], status: int = 200) -> web.StreamResponse:
        answer = web.json_response(obj, status=status)
        if warnings:  # in one header: Python's client refuses an answer with more than a hundred
            answer.headers["Warning"] = f'299 - "accepted and not enforced: {", ".join(warnings)}"'[
                :_MAX_HEADER
            ]
        return answer

    def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        wanted = Wanted.of(request)
        if target.name:
            obj = self._verbs.get(target)
            version = obj["metadata"].get("resourceVersion", "")
            if wanted.as_table and not target.sub:
                return web.json_response(table(target.resource, [obj], version, wanted.include))
            return web.json_response(obj)
        found, version = self._verbs.list(target, request.query)
        if wanted.as_table:
            return web.json_response(table(target.resource, found, version, wanted.include))
        resource = target.resource
        meta = {"resourceVersion": version}
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        return web.json_response({**head, "items": found})

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        wanted, query = Wanted.of(request), request.query
        selection = self._verbs.selection(target, query)
        version = query.get("resourceVersion")
        if self._cluster.faults.watch_expired(target.resource.plural):
            raise errors.expired(int(version or 0), self._cluster.store.version)
        if version and not version.isdigit():
            raise errors.bad_request(f"resourceVersion={version!r} is not a version of this server")
        timeout_s = float(query.get("timeoutSeconds") or _DEFAULT_WATCH_S)

        def shape(obj: Object) -> Object:
            if not wanted.as_table:
                return obj
            return table(target.resource, [obj], obj["metadata"]["resourceVersion"], wanted.include)

        lines = self._cluster.watches.stream(selection, version, shape, timeout_s)
        return await _stream(request, lines, "application/json")

    async def _log(self, request: web.Request, target: Target) -> web.StreamResponse:
        return await _stream(request, self._verbs.log(target, request.query), "text/plain")


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if not raw:
        return None
    kind = request.headers.get("Content-Type", "application/json")
    if "json" not in kind and "*/*" not in kind:
        if kind.startswith("application/apply-patch"):
            raise errors.not_implemented("server-side apply")
        raise ApiError(
            415, "UnsupportedMediaType", f"a body of {kind!r} cannot be read; send application/json"
        )
    try:
        return json.loads(raw)
    except ValueError as error:
        raise errors.bad_request(f"the body is not JSON: {error}") from error


async def _stream(request: web.Request, pieces: Any, kind: str) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": kind})
    await answer.prepare(request)
    try:
        async for piece in pieces:
            await answer.write(piece)
        await answer.write_eof()
    except ConnectionResetError:
        pass  # the reader has gone; the stream ends with it
    finally:
        await pieces.aclose()
    return answer
