"""Searches: Optuna chooses the points of a sweep by a metric, in place of the grid.

Points are chosen in batches, each by a sampler of its own seed that knows the results of all
batches before it, in the order of the points. So the choice depends neither on the order in which
trials end nor on the engine, and a search that was stopped needs no more than the files of its
trials: played again it chooses the same points and goes on.
"""

import json
import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scenarios import console
from scenarios.monitor import Monitor
from scenarios.schema import ScenarioError
from scenarios.sweep import (
    LOG,
    Options,
    Played,
    check_space,
    make_engine,
    play,
    prepare,
    row_of,
    train_for,
)
from scenarios.sweep_config import Distribution, Range, Search
from scenarios.sweep_plan import Plan
from scenarios.trial import DONE, FAILED, Trial
from scenarios.trial_columns import NUMBERS

_AGENT, _ESTIMATES = "agent", "estimates"
_DIGITS = 6  # of the numbers that are tried
_SHOWN_POINTS = 10
_JSON = "json:"  # before lists and tables among the values of an axis


class Point(NamedTuple):
    """A choice, and what it is worth."""

    number: int
    values: dict[str, Any]  # of the axes, and of `agent` and `estimates` if there are several
    trials: list[Trial]  # over structures and seeds; none if the scenario would be invalid
    value: float = float("nan")  # mean of the metric; NaN if a trial failed


class Searching:
    """A search that a plan asks for.

    Args:
        plan: of a sweep file with `[search]`.

    Raises:
        ValueError: Optuna is not installed, an axis cannot be searched, or the metric is no number
            of the results.
    """

    def __init__(self, plan: Plan) -> None:
        assert plan.sweep.search is not None
        self.plan, self.search = plan, plan.sweep.search
        _check_metric(self.search.metric)
        self._optuna = _import_optuna()
        self._space = _space(self._optuna, plan)
        for ends in _ends(self._space):
            self._trials(ends)  # faults show before anything is played
        self.points: list[Point] = []

    @property
    def num_trials(self) -> int:
        """Campaigns of the whole search."""
        return self.search.trials * len(self.plan.structures) * len(self.plan.sweep.seeds)

    @property
    def numbers(self) -> dict[Trial, int]:
        """The first point that each trial belongs to."""
        return {trial: point.number for point in reversed(self.points) for trial in point.trials}

    @property
    def best_point(self) -> dict[str, Any]:
        """Number, values and metric of the best point, the first of equal ones; none: empty."""
        for best in self.ranked():
            return {"point": best.number, **best.values, self.search.metric: best.value}
        return {}

    def ranked(self) -> list[Point]:
        """Points with a mean, best first."""
        sign = -1 if self.search.direction == "maximize" else 1
        known = [point for point in self.points if not math.isnan(point.value)]
        return sorted(known, key=lambda point: sign * point.value)

    def first_trials(self) -> list[Trial]:
        """Trials of the first batch."""
        return [trial for point in self._ask(self._study(), 0)[0] for trial in point.trials]

    @property
    def trials(self) -> list[Trial]:
        """Trials of the points chosen so far, each once."""
        return list(dict.fromkeys(trial for point in self.points for trial in point.trials))

    def play(self, folder: Path, options: Options) -> Played:
        """Chooses and plays points.

        Raises:
            ValueError: as `play_all`.
            KeyboardInterrupt: what is finished is in the folder.
        """
        prepare(folder)
        check_space(folder, self.num_trials)
        title = f"search {self.plan.sweep.name}"
        monitor = Monitor(title, self.num_trials, folder / LOG)
        monitor.write(f"{title}: {self.search.trials} points, engine {options.engine}")
        self.points = []
        try:
            with monitor.shown():
                return self._play(folder, options, monitor)
        except BaseException as error:
            monitor.write(f"stopped: {type(error).__name__}")
            _tell(f"stopped: what is finished is in {folder}; go on by running it again")
            raise

    def _play(self, folder: Path, options: Options, monitor: Monitor) -> Played:
        """Batch by batch, on one engine."""
        study, known, played = self._study(), dict[Trial, str](), 0
        with ExitStack() as stack:
            engine = None
            while len(self.points) < self.search.trials:
                points, asked = self._ask(study, len(self.points))
                self.points += points
                wanted = dict.fromkeys(trial for point in points for trial in point.trials)
                todo = [t for t in wanted if t not in known and _is_to_play(folder, t, options)]
                monitor.skip(self._per_point * len(points) - len(todo))
                if todo:
                    engine = engine or stack.enter_context(
                        closing(make_engine(options, self.search.batch * self._per_point))
                    )
                    train_for(todo, folder, engine, options)
                    play(engine, todo, folder, options, monitor)
                    played += len(todo)
                rows = {trial: row_of(folder, trial) for trial in wanted}
                known |= {trial: row["status"] for trial, row in rows.items() if row}
                self._learn(study, points, asked, rows)
        failed = sum(status == FAILED for status in known.values())
        return Played(len(known) - played, monitor.done, failed)

    @property
    def _per_point(self) -> int:
        return len(self.plan.structures) * len(self.plan.sweep.seeds)

    def _study(self) -> Any:
        return self._optuna.create_study(direction=self.search.direction)

    def _ask(self, study: Any, start: int) -> tuple[list[Point], list[Any]]:
        """The points of the batch that begins with number `start`, as Optuna's trials, too."""
        count = min(self.search.batch, self.search.trials - start)
        with warnings.catch_warnings():  # Optuna calls options experimental that are years old
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            study.sampler = self._optuna.samplers.TPESampler(
                seed=_seed(self.search, start), multivariate=True, constant_liar=True
            )
        asked = [study.ask(self._space) for _ in range(count)]
        points = []
        for place, trial in enumerate(asked):
            values = {name: _decoded(_rounded(value)) for name, value in trial.params.items()}
            try:
                trials = self._trials(values)
            except ScenarioError as error:
                _tell(f"point {start + place}: {error}")
                trials = []
            points.append(Point(start + place, values, trials))
        return points, asked

    def _trials(self, values: dict[str, Any]) -> list[Trial]:
        """The campaigns of a point."""
        values = {name: _decoded(value) for name, value in values.items()}
        plan, sweep = self.plan, self.plan.sweep
        agents = (values.pop(_AGENT),) if len(plan.agents) > 1 else plan.agents
        if len(sweep.estimates) > 1:
            sweep = sweep.model_copy(update={"estimates": (values.pop(_ESTIMATES),)})
        return plan._replace(sweep=sweep, agents=agents).trials([values])

    def _learn(
        self,
        study: Any,
        points: Sequence[Point],
        asked: Sequence[Any],
        rows: dict[Trial, dict[str, Any] | None],
    ) -> None:
        """Lets Optuna learn what the points of a batch, the last ones, are worth."""
        for point, trial in zip(points, asked, strict=True):
            found = [row for row in (rows[each] for each in point.trials) if row is not None]
            done = [row for row in found if row["status"] == DONE]
            known = [row[self.search.metric] for row in done]
            values = [float("nan") if value is None else float(value) for value in known]
            complete = bool(values) and len(values) == len(point.trials)
            value = float(np.mean(values)) if complete else float("nan")
            self.points[point.number] = point._replace(value=value)
            if math.isfinite(value):
                study.tell(trial, value)
            else:
                study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def print_best(self) -> None:
        """The best points."""
        names = [name for name in self.points[0].values]
        ranked = self.ranked()
        lines = [
            [str(p.number), *(str(p.values[name]) for name in names), f"{p.value:,.4g}"]
            for p in ranked[:_SHOWN_POINTS]
        ]
        search, failed = self.search, len(self.points) - len(ranked)
        title = f"{self.plan.sweep.name}: {len(self.points)} points to {search.direction} "
        title += f"{search.metric}" + (f", {failed} of them failed" if failed else "")
        note = f"Best first. Means over {self._per_point} campaigns (structures x seeds)."
        header = ["point", *names, search.metric]
        console.print_table(title, header, lines, note, text_columns=len(header) - 1)


def _is_to_play(folder: Path, trial: Trial, options: Options) -> bool:
    row = row_of(folder, trial) if options.resume else None
    return row is None or (options.retry_failed and row["status"] == FAILED)


def _check_metric(name: str) -> None:
    if name not in NUMBERS:
        raise ValueError(
            f"search.metric: {name!r} is no number of the results: one of {', '.join(NUMBERS)}"
        )


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError('[search] needs Optuna: pip install "adsim[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _space(optuna: Any, plan: Plan) -> dict[str, Any]:
    """What Optuna draws from, by the names of axes, and of agents and estimates if several."""
    kinds = optuna.distributions
    random = plan.sweep.random.axes if plan.sweep.random else {}
    config = plan.scenario.world.model_dump(mode="json")
    space = {}
    for name, axis in {**plan.sweep.axes, **random}.items():
        if isinstance(axis, Range):
            space[name] = _of_range(kinds, name, axis, _is_whole(config, name, axis))
        elif isinstance(axis, Distribution):
            space[name] = _of_distribution(kinds, name, axis)
        else:
            space[name] = _of_values(kinds, axis)
    if len(plan.agents) > 1:
        space[_AGENT] = kinds.CategoricalDistribution(list(plan.agents))
    if len(plan.sweep.estimates) > 1:
        space[_ESTIMATES] = kinds.CategoricalDistribution(list(plan.sweep.estimates))
    return space


def _is_whole(config: dict[str, Any], name: str, axis: Range) -> bool:
    """Whether the key takes whole numbers: the scenario's value is one, or unset."""
    value: Any = config
    for part in name.removeprefix("world.").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return all(end.is_integer() for end in (axis.start, axis.stop, axis.step or 1.0))
    return isinstance(value, int) and not isinstance(value, bool)


def _of_range(kinds: Any, name: str, axis: Range, whole: bool) -> Any:
    """Uniform between the ends, or in steps; `num` plays no part."""
    stop = axis.stop if axis.step is None else float(axis.values()[-1])
    if not whole:
        return kinds.FloatDistribution(axis.start, stop, step=axis.step, log=axis.log)
    low, high, step = math.ceil(axis.start), math.floor(stop), axis.step or 1.0
    if low > high or not step.is_integer():
        raise ValueError(f"axes.{name}: takes whole numbers: there must be one, and a whole step")
    return kinds.IntDistribution(low, high, step=int(step), log=axis.log)


def _of_distribution(kinds: Any, name: str, axis: Distribution) -> Any:
    if axis.uniform is not None:
        return kinds.FloatDistribution(*axis.uniform)
    if axis.log_uniform is not None:
        return kinds.FloatDistribution(*axis.log_uniform, log=True)
    if axis.integers is not None:
        return kinds.IntDistribution(*axis.integers)
    if axis.choice is not None:
        return _of_values(kinds, axis.choice)
    raise ValueError(
        f"random.axes.{name}: normal and log_normal have no ends to search between: "
        "use uniform, log_uniform, integers or choice"
    )


def _of_values(kinds: Any, values: Sequence[Any]) -> Any:
    """One of the values; numbers are of one type, as columns of tables are."""
    if {type(value) for value in values} == {int, float}:
        values = [float(value) for value in values]
    return kinds.CategoricalDistribution([_encoded(value) for value in values])


def _ends(space: dict[str, Any]) -> list[dict[str, Any]]:
    """The lowest and the highest of all axes."""
    ends = [("low", 0), ("high", -1)]
    return [
        {
            name: law.choices[place] if hasattr(law, "choices") else getattr(law, end)
            for name, law in space.items()
        }
        for end, place in ends
    ]


def _seed(search: Search, start: int) -> int:
    """Of the sampler of the batch that begins with a point."""
    return int(np.random.SeedSequence([search.seed, start]).generate_state(1)[0])


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _encoded(value: Any) -> Any:
    """Optuna's categories are numbers and text: lists and tables become JSON."""
    if isinstance(value, list | tuple | dict):
        return _JSON + json.dumps(value)
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_JSON):
        return json.loads(value.removeprefix(_JSON))
    return value


def _tell(text: str) -> None:
    console.stderr.print(text, highlight=False, soft_wrap=True)
