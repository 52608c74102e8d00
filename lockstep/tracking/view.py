"""Updates MLflow from the runs folder: sends what is missing, exactly once.

What is there is asked of MLflow itself, nothing is remembered in a file. A run is found by its
tags, a metric by name and step. A metric's time follows from these, so what two senders send at
the same moment is one row of MLflow's tables, whose primary key is all of it.
"""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lockstep.ground.errors import RunError, TrackingError, public
from lockstep.ground.files import held, write_errors
from lockstep.ground.watch import Watch
from lockstep.records.run import runs
from lockstep.tracking.export import FINISHED, IDENTITY, RUN, RUNNING, SENT, Export, export

HOME = ".tracking"  # in the runs folder: the follower's log and what went wrong
_DATABASE = "mlflow.db"
AGAIN = "`invoke track --sync` sends what is missing"
# No word to MLflow's makers, and no minutes of patience: who calls tries again, or gives up.
VARIABLES = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_METRICS, _OTHERS = 1000, 100  # what MLflow takes in one call
_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds before what was refused is sent again


def address(folder: Path) -> str:
    """Where the view of a runs folder is: MLFLOW_TRACKING_URI, or a SQLite file in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _default(folder)


def _default(folder: Path) -> str:
    return f"sqlite:///{folder.absolute() / _DATABASE}"


def home(folder: Path) -> Path:
    """The folder for what is noted beside the runs, made if it is not there."""
    with write_errors(folder):
        (folder / HOME).mkdir(parents=True, exist_ok=True)
    return folder / HOME


def refuse_unreachable(place: str) -> None:
    """Raise TrackingError if a server's address does not answer; quickly, and without MLflow."""
    if not place.startswith(("http://", "https://")):
        return
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{public(place).rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answers; what it thinks of us, MLflow will hear
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # of which MLflow may know more
            return
        told = getattr(reason, "strerror", None) or reason
        raise TrackingError(
            f"{public(place)}: no answer ({told}), expected an MLflow server; start it, or name "
            f"another by MLFLOW_TRACKING_URI. Then {AGAIN}."
        ) from error


def sync(folder: Path, watch: Watch, only: Container[str] | None = None) -> list[str]:
    """Send what MLflow lacks of the runs in a folder, or ``only`` of some; the names of these runs.

    A run whose files were altered is named and left out. Raises TrackingError if MLflow is not
    installed, cannot be reached or refuses; what was sent before that stays, and is not sent again.
    """
    refuse_unreachable(place := address(folder))
    if not find_spec("mlflow"):
        raise TrackingError(
            "mlflow: found none in this environment, expected it to send runs; it is in the "
            "development packages, which ./workbench installs."
        )
    with held(home(folder), watch.say), _one_line_errors(place):
        exports = []
        for run in runs(folder):
            try:
                if only is None or run.name in only:
                    exports.append(export(run))
            except RunError as error:
                watch.say(f"warning: {error}")
        view = View(place, folder, exports)
        try:
            return [one.run.name for one in exports if view.update(one, watch)]
        finally:
            watch.end()


@contextmanager
def _one_line_errors(place: str) -> Iterator[None]:
    """Turn any error of a store, a server or the network into a TrackingError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(public(str(error)).split())[:300] or type(error).__name__
        raise TrackingError(f"{public(place)}: {reason}; fix that, then {AGAIN}.") from error


def _make_tables(folder: Path) -> None:
    """Make the SQLite file aside: MLflow does not repair one whose creation was interrupted."""
    from mlflow import MlflowClient

    final, part = folder / _DATABASE, folder / HOME / "new.db"
    if not final.exists():
        for left in part.parent.glob(f"{part.name}*"):
            left.unlink()
        MlflowClient(tracking_uri=f"sqlite:///{part.absolute()}").search_experiments(max_results=1)
        os.replace(part, final)


class View:
    """MLflow at an address, and what it has of some runs."""

    def __init__(self, place: str, folder: Path, exports: Sequence[Export]):
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if place == _default(folder):
            _make_tables(folder)
        self._client = MlflowClient(tracking_uri=place)
        # A server knows where its artifacts go.
        alone = place.startswith("sqlite:")
        artifacts = (folder.absolute() / "mlartifacts").as_uri() if alone else None
        self._experiments = {
            name: self._experiment(name, artifacts)
            for name in sorted({one.experiment for one in exports})
        }
        self._known: dict[tuple[str, str], list[Any]] = defaultdict(list)
        if exports:
            for run in self._search(""):
                tags = run.data.tags
                self._known[tags.get(IDENTITY, ""), tags.get(RUN, "")].append(run)

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        def found() -> Any:
            return self._client.get_experiment_by_name(name)

        if not found():
            try:
                self._client.create_experiment(
                    name, artifacts, {"mlflow.experimentKind": "custom_model_development"}
                )  # or its page would open on traces of language models
            except MlflowException:  # another was faster, or it was deleted and keeps its name
                if not found():
                    raise
        return str(found().experiment_id)

    def _search(self, text: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [*self._experiments.values()], text, max_results=1000, page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def update(self, entry: Export, watch: Watch) -> bool:
        """Send what MLflow lacks of a run; whether that was anything."""
        from mlflow.exceptions import MlflowException

        run = self._remote_run(entry)
        if (run.data.tags.get(SENT), run.info.status) == (entry.mark, entry.status):
            return False
        watch.doing(f"{entry.run.name}: {entry.status.lower()}")
        # Of what two senders write at the same moment, a database refuses one; and where both made
        # a run, one deletes the other's. Who is refused looks again what is missing, and where.
        for pause in _PAUSES:
            try:
                self._send(run, entry)
                return True
            except MlflowException:
                time.sleep(pause)
                del self._known[entry.key]
                run = self._remote_run(entry)
        self._send(run, entry)
        return True

    def _send(self, run: Any, entry: Export) -> None:
        client, run_id = self._client, run.info.run_id
        self._log(run, entry)
        there = {item.path: item.file_size for item in client.list_artifacts(run_id)}
        for path in entry.files:
            # A file that exists from the start may be rewritten without a change of its length.
            rewritten = entry.status == FINISHED and path.suffix == ".yaml"
            if rewritten or there.get(path.name) != path.stat().st_size:
                client.log_artifact(run_id, str(path))
        if entry.status == RUNNING:
            client.update_run(run_id, status=RUNNING)
        else:
            client.set_terminated(run_id, entry.status, entry.ended)
        client.set_tag(run_id, SENT, entry.mark)  # last: it says that all of this is there

    def _remote_run(self, entry: Export) -> Any:
        """The run's one run in MLflow, made if there is none.

        Where several senders have made one each, all choose the same of them and delete the others.
        """
        if not (found := self._matches(entry)):
            found = self._refresh(entry)
        if not found:
            tags = {IDENTITY: entry.key[0], RUN: entry.key[1]}
            experiment = self._experiments[entry.experiment]
            self._client.create_run(experiment, entry.began, tags, entry.run.name)
            found = self._refresh(entry)
        for other in found[1:]:
            self._client.delete_run(other.info.run_id)
        self._known[entry.key] = found[:1]
        return found[0]

    def _refresh(self, entry: Export) -> list[Any]:
        """``_fitting``, as it is now."""
        text = f"tags.`{IDENTITY}` = '{entry.key[0]}' and tags.`{RUN}` = '{entry.key[1]}'"
        self._known[entry.key] = list(self._search(text))
        return self._matches(entry)

    def _matches(self, entry: Export) -> list[Any]:
        """What MLflow has of a run, the one to keep first.

        One that is finished with other bits is another training of the same name, and stays.
        """

        def sent(run: Any) -> str:
            return str(run.data.tags.get(SENT, ""))

        fitting = [
            run
            for run in self._known[entry.key]
            if sent(run) == entry.mark or not sent(run).startswith("finished")
        ]
        return sorted(fitting, key=lambda run: (sent(run) != entry.mark, run.info.run_id))

    def _log(self, run: Any, entry: Export) -> None:
        """Send params, tags and the metrics that are missing, in few calls."""
        from mlflow.entities import Metric, Param, RunTag

        client, run_id, began = self._client, run.info.run_id, run.info.start_time
        data = run.data
        params = [Param(*i) for i in entry.params.items() if i[0] not in data.params]
        tags = [RunTag(*i) for i in entry.tags.items() if data.tags.get(i[0]) != i[1]]
        for start in range(0, max(len(params), len(tags)), _OTHERS // 2):
            here = slice(start, start + _OTHERS // 2)
            client.log_batch(run_id, params=params[here], tags=tags[here])
        there = {
            (name, metric.step): metric.value
            for name in {name for name, _ in entry.metrics} & data.metrics.keys()
            for metric in client.get_metric_history(run_id, name)
        }
        if any(entry.metrics.get(place, value) != value for place, value in there.items()):
            client.delete_run(run_id)  # of another training, whose folder is gone; see ``bring``
        # No file has the time of a step. MLflow's own start of the run is the same for all senders.
        missing = [
            Metric(name, value, began + step, step)
            for (name, step), value in entry.metrics.items()
            if (name, step) not in there
        ]
        for start in range(0, len(missing), _METRICS):
            client.log_batch(run_id, metrics=missing[start : start + _METRICS])
