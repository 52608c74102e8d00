"""The limits of one caller's requests, and the errors beyond them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits that bound memory and waiting, whatever is sent."""

    connections: int = 900  # below the 1,024 files that a process commonly may open
    head: int = 64 << 10  # bytes of a request's address and headers, and of its trailers
    headers: int = 100
    body: int = 8 << 20  # bytes of a request
    bodies: int = 16 << 20  # bytes of all requests that have arrived and are not answered
    inputs: int = 256  # of a request
    values: int = 1 << 18  # in a request's JSON, which is read in one go: 256 pictures of 28 x 28
    requests: int = 512  # that came whole; more are answered with 503
    waiting: int = 2048  # inputs that wait to be computed
    receiving: float = 10.0  # seconds until a request's head, and then its body, has to be there
    idle: float = 5.0  # seconds until a caller that was answered has to ask again
    sending: float = 10.0  # seconds until a caller has to take what the server cannot write
    reading: float = 4.0  # seconds in which its inputs have to be read; one may take longer
    answering: float = 30.0  # seconds until its answer has to be there
    stopping: int = 8  # seconds for requests under way after a signal to stop
    asking: float = 2.0  # of these, for a caller that is connected to ask a last time


class Refused(Exception):
    """A request that is not answered: a status and one line for its caller."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail


def busy() -> Refused:
    """Return the error for a full queue."""
    return Refused(503, "server: the queue is full; try again soon.")
