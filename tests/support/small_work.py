"""Work for worker processes: they import it by its name, which they cannot with that of a test."""

import os
import signal
import time

from scenarios.workers import THREADS


def double(x):
    return 2 * x


def fail_on_odd(x):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def die_on(fatal, x):
    if x == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


class UnpicklableError(Exception):
    def __init__(self, function):
        super().__init__("odd")
        self.function = function


def raise_unpicklable(_):
    raise UnpicklableError(lambda: 0)


def wait_for(x):
    time.sleep(60)
    return x


def threads_of(_):
    return [os.environ.get(name) for name in THREADS]


def refuse(text):
    raise ValueError(text)
