"""Worker processes: what they do, what they raise, and how they die."""

import os
import time
from functools import partial

import pytest
from small_work import (
    die_on,
    double,
    fail_on_odd,
    raise_unpicklable,
    refuse,
    threads_of,
    wait_for,
)

from scenarios.pool import in_processes, outcomes
from scenarios.workers import THREADS, InProcess, Workers


def all_of(engine, todo):
    try:
        return {outcome.item: outcome for outcome in outcomes(engine, todo)}
    finally:
        engine.close()


@pytest.mark.parametrize("engine", [InProcess, lambda work: Workers(work, 2)])
def test_every_item_has_one_outcome_and_errors_are_told(engine):
    found = all_of(engine(fail_on_odd), range(5))
    assert {item: outcome.value for item, outcome in found.items()} == {
        **{0: 0, 2: 2, 4: 4},
        **dict.fromkeys((1, 3)),
    }
    assert str(found[3].error) == "3 is odd"
    assert "fail_on_odd" in found[3].trace
    assert not any(outcome.died for outcome in found.values())


def test_death_of_a_worker_costs_its_item_only():
    found = all_of(Workers(partial(die_on, 2), 2), range(6))
    assert [item for item, outcome in sorted(found.items()) if outcome.died] == [2]
    assert "SIGKILL" in found[2].trace
    assert [found[x].value for x in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_error_that_cannot_be_sent_is_told_in_words():
    found = all_of(Workers(raise_unpicklable, 1), [0])
    assert "odd" in str(found[0].error)


def test_workers_have_one_thread_each(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    found = all_of(Workers(threads_of, 1), [0])
    assert found[0].value == ["1"] * len(THREADS)
    assert not {*THREADS} & {*os.environ}


def test_close_ends_workers_at_work():
    engine = Workers(wait_for, 2)
    engine.submit(0)
    engine.submit(1)
    pids = engine.pids
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 30
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_pool_raises_what_the_work_raises_and_names_what_died():
    assert sorted(in_processes(double, range(4), 2, str)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="1 is odd"):
        list(in_processes(fail_on_odd, range(3), 2, str))
    with pytest.raises(RuntimeError, match="item 1: the worker process ended by signal SIGKILL"):
        list(in_processes(partial(die_on, 1), range(3), 2, lambda item: f"item {item}"))


def test_pool_does_what_comes_first_before_any_item():
    with pytest.raises(ValueError, match="first"):
        list(in_processes(double, range(3), 1, str, partial(refuse, "first")))
