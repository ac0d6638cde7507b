"""A Ray cluster of two nodes on this machine, in a process of its own that can lose one of them."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def two_nodes(environment=None):
    """Yields the address, and the process: a line to it kills the second node."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **(environment or {})},
    ) as process:
        try:
            yield json.loads(process.stdout.readline())["address"], process
        finally:
            process.stdin.close()
            process.wait(60)


def descendants(pid):
    """Processes below a process, with their command lines."""
    below = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        below.setdefault(parent, []).append((int(folder.name), command))
    found, todo = {}, [pid]
    while todo:
        for child, command in below.get(todo.pop(), []):
            found[child] = command
            todo.append(child)
    return found


def _serve():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    print(json.dumps({"address": cluster.address}), flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
