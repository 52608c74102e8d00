"""``serve`` has a model listen at an address until a signal asks to stop."""

import gc
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from lockstep.ground.errors import Interrupted, ServingError
from lockstep.loading import Served
from lockstep.serving.connection import Connection
from lockstep.serving.stopping import Server, deadline

_TURN = 5e-5  # seconds; Python gives 5e-3
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    open_model: Callable[[], Served],
    host: str,
    port: int,
    say: Callable[[str], None],
    token: str | None = None,
    *,
    guarded: bool = False,
) -> None:
    """Serve what ``open_model`` gives until a signal asks to stop; what is under way is answered.

    ``say`` gets the address once it answers. ``guarded``: something stands before it that lets
    in whom it knows. Raises ServingError if it cannot be listened to, or if others than this
    machine could come in unguarded and there is no token; Interrupted in the end; and whatever
    ``open_model`` raises.
    """
    # From the beginning: the first process of a container would not be ended without a handler.
    signal.signal(signal.SIGTERM, _stop)
    with _listening(host, port) as listener:  # before the model is loaded, which takes seconds
        if not guarded:
            _refuse_strangers(host, listener, token)
        served = open_model()
        from lockstep.serving.app import app  # loads torch, which the model has set up by now

        # Who knows the token is no page of a stranger that a browser was made to call us with.
        hosts = None if token or guarded else (*_LOCAL, host)
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {served.name} at http://{shown}:{listener.getsockname()[1]}")
        config, stopping = configured(app(served, token, hosts=hosts)), Connection.limits.stopping
        server = Server(config, stopping, deadline(stopping))
        _make_quick()
        server.run(sockets=[listener])  # ends by the signal that stopped it


def configured(application: Any, connection: type[Connection] = Connection) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        application,
        http=connection,
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",  # a warning for each broken request would let callers fill the log
        server_header=False,
        date_header=False,
    )


def _make_quick() -> None:
    """Have requests and the model's computing wait less for each other; figures: `docs/log.md`."""
    # What is there now stays to the end: nobody need wait while it is searched for garbage.
    gc.collect()
    gc.freeze()
    # After each of its steps the model's thread waits so long, at most, for the other one.
    sys.setswitchinterval(_TURN)


def _stop(number: int, _: FrameType | None) -> None:
    raise Interrupted(number, "stopped serving", resumes=False)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; who calls before the model is loaded has to wait."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, UnicodeError) as error:
        # A name with an empty part, or one of 64 letters and more, is none of a host.
        why = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise ServingError(
            f"{host}:{port}: cannot listen there ({why}), expected an address of this "
            "machine and a free port; stop what listens there, or name another with --port N."
        ) from error
    return listener


def _refuse_strangers(host: str, listener: socket.socket, token: str | None) -> None:
    if not token and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        raise ServingError(
            f"{host}: found no token, expected one where others than this machine come in; set "
            "LOCKSTEP_TOKEN, or listen at 127.0.0.1."
        )
