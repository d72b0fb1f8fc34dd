"""An address that is bound, or an error that says which one and what to do."""

import socket

from sluice.errors import RetryableError


def bound(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises RetryableError where the address cannot be had.

    Of our own: given a name, the event loop would start four threads to look it up.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise RetryableError(
            f"--host {host} --port {port} cannot be bound ({error.strerror or error})",
            "free the address or name another one",
        ) from error
