"""``serve`` has a model listen at an address until a signal asks to stop."""

import asyncio
import gc
import ipaddress
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import uvloop
from starlette.types import ASGIApp

from lockstep.ground.errors import Interrupted, ServingError
from lockstep.loading import Served
from lockstep.serving.connection import Connections
from lockstep.serving.limits import Limits
from lockstep.serving.memory import keep_large_apart
from lockstep.serving.stopping import Stop, is_waited_at, take_no_more

_TURN = 5e-5  # seconds; Python gives 5e-3
_LOCAL = ("127.0.0.1", "localhost", "::1")
_BACKLOG = 2048  # connections that wait to be accepted
_FILES = 4096  # more than these and all connections
_TICK = 0.1  # seconds between two looks at the time
_SETTLED = 0.3  # seconds in which a connection that is being made has been made
_TELLING = 0.2  # seconds to answer the callers that got no answer


def serve(
    open_model: Callable[[], Served],
    host: str,
    port: int,
    say: Callable[[str], None],
    token: str | None = None,
    *,
    stop: Stop,
    guarded: bool = False,
    limits: Limits | None = None,
) -> None:
    """Serve what ``open_model`` returns until a signal asks to stop; what is under way is answered.

    ``say`` gets the address once it answers. ``guarded``: something stands before it that lets
    in whom it knows. Raises ServingError if it cannot be listened to, or if others than this
    machine could come in unguarded and there is no token; Interrupted in the end; and whatever
    ``open_model`` raises.
    """
    limits = limits or Limits()
    with _listening(host, port) as listener:  # before the model is loaded, which takes seconds
        if not guarded:
            _refuse_strangers(host, listener, token)
        served = open_model()
        if stop.number is None or is_waited_at(listener):
            from lockstep.serving.app import app  # loads torch, which the model has set up by now

            # Who knows the token is no page of a stranger that a browser was made to call us with.
            hosts = None if token or guarded else (*_LOCAL, host)
            application = app(served, token, limits, hosts, stop)
            shown = f"[{host}]" if ":" in host else host
            say(f"serving {served.name} at http://{shown}:{listener.getsockname()[1]}")
            _make_quick()
            keep_large_apart()
            _allow_files()
            uvloop.run(answer(application, listener, stop, limits))
    assert stop.number is not None
    raise Interrupted(stop.number, "stopped serving", resumes=False)


async def answer(application: ASGIApp, listener: socket.socket, stop: Stop, limits: Limits) -> None:
    """Answer the callers of a socket that listens, which is closed in the end.

    Once it is to stop, whoever is connected or waits to be accepted has its requests answered,
    the last one with ``connection: close``; what is under way has ``limits.stopping`` seconds.
    """
    loop = asyncio.get_running_loop()
    connections = Connections(application, limits)
    server = await loop.create_server(connections.new, sock=listener, backlog=_BACKLOG)
    while stop.number is None:
        await asyncio.sleep(_TICK)
        connections.check()
    began = loop.time()
    connections.stop()
    take_no_more(listener)
    await asyncio.sleep(_SETTLED)
    while is_waited_at(listener) and loop.time() < began + limits.stopping:
        await asyncio.sleep(0)
    server.close()
    listener.close()
    while connections and loop.time() < began + limits.stopping:
        await asyncio.sleep(_TICK / 5)
        connections.check()
    connections.refuse()
    end = loop.time() + _TELLING
    while connections and loop.time() < end:
        await asyncio.sleep(_TICK / 5)
    connections.abort()


def _make_quick() -> None:
    """Have requests and the model's computing wait less for each other; figures: `docs/log.md`."""
    # What is there now stays to the end: nobody need wait while it is searched for garbage.
    gc.collect()
    gc.freeze()
    # After each of its steps the model's thread waits so long, at most, for the other one.
    sys.setswitchinterval(_TURN)


def _allow_files() -> None:
    """Allow this process as many files as connections may need."""
    # A connection is a file; there are more than the limit while those that make room are closed.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; who calls before the model is loaded has to wait."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
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
