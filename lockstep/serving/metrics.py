"""Metrics for Prometheus: requests, durations, queue length."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

KIND = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The counters of one served model."""

    def __init__(self, name: str, identity: str):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lockstep_requests", "Requests by path and status", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lockstep_predict_seconds", "From a request to /predict to its answer",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._blocks = Histogram(
            "lockstep_block_inputs", "Inputs computed together",
            buckets=(1, 2, 4, 8, 16, 32), registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge(
            "lockstep_waiting_inputs", "Inputs that wait to be computed", registry=self._registry
        )
        self._under_way = Gauge(
            "lockstep_requests_under_way", "Requests to /predict that are not answered yet",
            registry=self._registry,
        )  # fmt: skip
        Gauge(
            "lockstep_run", "The run that answers", ["run", "identity"], registry=self._registry
        ).labels(name, identity).set(1)
        self._of: dict[tuple[str, int], Counter] = {}

    def answered(self, path: str, status: int) -> None:
        """Count a request; ``path`` is one of a few, not what a caller made up."""
        if (path, status) not in self._of:
            self._of[path, status] = self._requests.labels(path, str(status))
        self._of[path, status].inc()

    def took(self, seconds: float) -> None:
        """Note how long a prediction took."""
        self._seconds.observe(seconds)

    def computed(self, inputs: int) -> None:
        """Note how many inputs a block has."""
        self._blocks.observe(inputs)

    def watch(self, waiting: Callable[[], int], under_way: Callable[[], int]) -> None:
        """Say how to ask what waits."""
        self._waiting.set_function(waiting)
        self._under_way.set_function(under_way)

    def page(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)
