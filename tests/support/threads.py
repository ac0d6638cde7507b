"""How many threads torch uses."""

from contextlib import contextmanager

import torch


@contextmanager
def one_thread():
    """On a busy machine, networks as small as those of the tests are much slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
