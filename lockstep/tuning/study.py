"""A study: its storage, the law of what is tried next, and what is known so far.

The law: trials come in batches of a fixed size. What trial n tries, and whether it is given up, is
a function of the space, the seed, n, and the results of the batches before its own. So one process
or many, here or on several machines, killed and continued or not, do the same trials with the same
numbers and the same results. How many work on it decides nothing.
"""

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, Trial, TrialState

from lockstep.ground.digests import canonical_json, digest_of, key_of
from lockstep.ground.errors import RunError
from lockstep.ground.files import write_errors
from lockstep.tuning.space import Choice, Range, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

Direction = Literal["minimize", "maximize"]

_AT_RANDOM = 8  # trials before the sampler looks at results
_PRUNED_AFTER = 4  # trials that must have ended before one is given up
_SPARED = 2  # no trial is given up before this epoch
_BEAT, _LOST = 20.0, 120.0  # seconds between signs of life, and without one until a trial is lost


class Study:
    """The trials of a space, in storage that several processes share.

    ``decides`` is all that the results depend on besides the space: it goes into the study's name,
    so that after an edit of the code another study begins. ``url`` is that of a database; without
    it a journal in the folder does. Raises RunError if the storage cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        space: Space,
        base: dict[str, Any],
        *,
        seed: int,
        batch: int,
        direction: Direction,
        decides: Any,
        url: str | None = None,
    ):
        said = {key: vars(part) for key, part in space.items()}
        code = [digest_of(Path(__file__)), optuna.__version__]  # in no run's identity
        law = [code, batch, seed, direction, said, list(said), base, decides]
        self.name = f"{title}-s{seed}-{digest_of(canonical_json(law))[:8]}"
        self.folder, self.space, self.base = folder / self.name, space, base
        self.seed, self.batch, self.direction = seed, batch, direction
        self.distributions = {key: _distribution(part) for key, part in space.items()}
        self._study = _opened(self.name, self.folder, direction, _Law(self), url)
        self._several_machines = url is not None

    def trials(self) -> list[FrozenTrial]:
        """All trials up to now, by number."""
        return self._study.get_trials(deepcopy=False)

    def claim(self, total: int) -> Trial | None:
        """Claim one of the first ``total`` trials that needs work; return None if none does.

        It is a new one, or one whose process died. Before all of a batch have ended, the next is
        not begun.
        """
        trials = self.trials()
        ended = sum(trial.state.is_finished() for trial in trials[:total])
        open_ones = [trial for trial in trials[:total] if not trial.state.is_finished()]
        batch = min((trial.number for trial in open_ones), default=ended) // self.batch
        for trial in open_ones:
            if trial.number // self.batch == batch and self._is_abandoned(trial):
                return self._taken(Trial(self._study, trial._trial_id))
        if len(trials) < min(total, (batch + 1) * self.batch):
            return self._taken(self._study.ask())
        return None

    def is_done(self, total: int) -> bool:
        """Whether the first so many trials have ended."""
        trials = self.trials()[:total]
        return len(trials) == total and all(trial.state.is_finished() for trial in trials)

    def _taken(self, trial: Trial) -> Trial:
        trial.set_user_attr("owner", _process(os.getpid()))
        return trial

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner")
        if not owner:  # given back, or its process died before it could say who it is
            begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            return "owner" in trial.user_attrs or time.time() - begun > 1
        if owner["host"] == socket.gethostname():
            return bool(_process(owner["pid"]) != owner)
        return bool(time.time() - trial.user_attrs.get("seen", 0) > _LOST)

    @contextmanager
    def working(self, trial: Trial) -> Iterator[dict[str, Any]]:
        """Give signs of life for a trial and give it back if it is left without a result.

        Given are the settings to try.
        """
        stop = Event()

        def beat() -> None:
            while not stop.is_set():
                with suppress(Exception):  # the storage may be away for a while
                    trial.set_user_attr("seen", time.time())
                stop.wait(_BEAT)

        try:
            tried = {key: _suggested(trial, key, how) for key, how in self.distributions.items()}
            if self._several_machines:
                Thread(target=beat, daemon=True).start()
            yield tried
        except BaseException:
            with suppress(Exception):
                trial.set_user_attr("owner", None)
            raise
        finally:
            stop.set()

    def end(self, trial: Trial, value: float | None = None, *, pruned: bool = False) -> None:
        """Keep a trial's result: its value, that it was given up, or that it failed."""
        state = TrialState.PRUNED if pruned else TrialState.FAIL if value is None else None
        self._study.tell(trial, value, state=state, skip_if_finished=True)

    def reported(self, trial: Trial) -> set[int]:
        """The epochs of a trial whose values are kept already."""
        return set(self.trials()[trial.number].intermediate_values)

    def proposal(self, number: int) -> dict[str, Any]:
        """What a trial tries: the recipe itself first, then what the sampler makes of the past."""
        if number == 0 and all(part.has(self.base[key]) for key, part in self.space.items()):
            return dict(self.base)
        seed = key_of(self.seed, "tune", number) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_AT_RANDOM)
        past = self._past(number, sampler, None)
        tried = past.ask(self.distributions).params
        return {key: _rounded(value, self.space[key]) for key, value in tried.items()}

    def is_hopeless(self, number: int, values: dict[int, float]) -> bool:
        """Whether a trial with these values by epoch is to be given up after the last of them.

        It is if its best is worse than the median of the trials of the batches before its own.
        """
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNED_AFTER, n_warmup_steps=_SPARED)
        past = self._past(number, optuna.samplers.RandomSampler(seed=0), pruner)
        judged = past.ask()
        for epoch, value in values.items():
            judged.report(value, epoch)
        return judged.should_prune()

    def _past(self, number: int, sampler: Any, pruner: Any) -> optuna.Study:
        """The batches before that of a trial, alone; waits for their end."""
        before = number // self.batch * self.batch
        while not self.is_done(before):
            time.sleep(0.1)
        made = optuna.create_study(sampler=sampler, pruner=pruner, direction=self.direction)
        made.add_trials(self.trials()[:before])
        return made

    def best(self, total: int) -> FrozenTrial | None:
        """The best of the first so many trials that were trained to their end, or None."""
        sign = -1 if self.direction == "maximize" else 1
        complete = [t for t in self.trials()[:total] if t.state == TrialState.COMPLETE]
        return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def importances(self) -> dict[str, float]:
        """How much each setting matters for the value, summing to 1; empty if it cannot be said."""
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            return {key: float(share) for key, share in found.items()}
        except (ValueError, RuntimeError):  # too few trials, or all alike
            return {}


class _Law(optuna.samplers.BaseSampler):
    """Hands the study's own proposals to Optuna."""

    def __init__(self, study: Study):
        self._law = study

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        return self._law.distributions

    def sample_relative(self, _: Any, trial: FrozenTrial, __: Any) -> dict[str, Any]:
        return self._law.proposal(trial.number)

    def sample_independent(self, *_: Any) -> Any:
        raise AssertionError("all settings of the space are proposed together")


def _distribution(part: Range | Choice) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution(part.values)
    if part.whole:
        step = int(part.step or 1)
        return IntDistribution(int(part.low), int(part.high), log=part.log, step=step)
    return FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def _suggested(trial: Trial, key: str, how: BaseDistribution) -> Any:
    if isinstance(how, CategoricalDistribution):
        return trial.suggest_categorical(key, how.choices)
    if isinstance(how, IntDistribution):
        return trial.suggest_int(key, how.low, how.high, step=how.step, log=how.log)
    assert isinstance(how, FloatDistribution)
    return trial.suggest_float(key, how.low, how.high, step=how.step, log=how.log)


def _rounded(value: Any, part: Range | Choice) -> Any:
    """Four digits: readable, and no trace of the last bits, in which CPUs may differ."""
    if isinstance(part, Choice) or part.whole:
        return value
    digits = 4 if part.step is None else 10  # 0.6, not 0.6000000000000001
    return min(max(float(f"{value:.{digits}g}"), part.low), part.high)


def _process(pid: int) -> dict[str, Any]:
    """Names a process, also after another one got its number."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # none of that number, or no such file system
        started = ""
    return {"host": socket.gethostname(), "pid": pid, "started": started}


class _Lock(BaseJournalFileLock):
    """The kernel's lock on the journal's folder: it dies with its holder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def acquire(self) -> bool:
        self._handle = os.open(self._folder, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._handle)


def _opened(
    name: str, folder: Path, direction: Direction, sampler: _Law, url: str | None
) -> optuna.Study:
    """The study in its storage, made if it is not there. Several may try at once."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(5)):
        try:
            with warnings.catch_warnings(action="ignore"):
                return optuna.create_study(
                    storage=_storage(folder, url),
                    study_name=name,
                    direction=direction,
                    sampler=sampler,
                    load_if_exists=True,
                )
        except OSError as error:
            raise RunError(f"{folder}: {error.strerror or error}; fix that.") from error
        except Exception as error:  # of whatever database; the address may hold a password
            if not left:
                place = (url or "").rpartition("@")[2] or str(folder)
                reason = _plain(error, url or "")
                raise RunError(
                    f"--storage: {place} cannot be used ({reason}), expected a journal or a "
                    "PostgreSQL database: postgresql://USER@HOST/NAME."
                ) from error
            time.sleep(0.3)  # another process may be making the tables
    raise AssertionError


def _plain(error: Exception, url: str) -> str:
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    return text.replace(password, "...")[:160] if password else text[:160]


def _storage(folder: Path, url: str | None) -> BaseStorage:
    if url:
        if url.startswith("postgresql://"):  # by the driver that is locked
            url = url.replace("postgresql", "postgresql+psycopg2", 1)
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    path, lock = folder / "journal.log", _Lock(folder)
    lock.acquire()
    try:
        _mend(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off a last line that is not whole: its writer died."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def finished(trials: Sequence[FrozenTrial]) -> int:
    """How many of them have ended."""
    return sum(trial.state.is_finished() for trial in trials)
