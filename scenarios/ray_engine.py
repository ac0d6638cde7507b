"""Trials on a Ray cluster, or on a Ray of this machine: what `adsim sweep --engine ray` uses.

What trials read is put into Ray's object store once, and fetched by the machines that lack it
(`scenarios.parcels`). Only as many tasks are under way as the cluster has room for.
"""

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adsim.datasets.blocks import replacing
from scenarios import console
from scenarios.parcels import Enclosed, Parcel, pack, work_on
from scenarios.trial import Training, Trial
from scenarios.version import code_digest
from scenarios.workers import THREADS, Outcome, attempt, sendable

if TYPE_CHECKING:
    from scenarios.sweep import Options

_STORE_BYTES = 200_000_000  # object store of a local Ray; what does not fit goes to disk
_RETRIES = 2  # of a task whose worker or node dies; done by Ray
_REFRESH_SECONDS = 5.0  # between looks at how large the cluster is
_CONNECT_SECONDS = 10.0


class OtherCodeError(RuntimeError):
    """A machine of the cluster has other code of adsim."""


class RayEngine:
    """An `Engine` that trains estimates and plays trials on a Ray cluster.

    Args:
        options: address, resources of a trial, and the folder of trained estimates.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be reached, or no machine of it has
            what a trial needs.
    """

    def __init__(self, options: "Options") -> None:
        _check(options)
        self._ray = _import_ray()
        self._options, self._code = options, _code()
        self._owns = not self._ray.is_initialized()
        if self._owns:
            _connect(self._ray, options)
        # By default a worker with a GPU ends after a task; it has what trials share in memory.
        self._task: Any = self._ray.remote(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=_RETRIES, max_calls=0
        )(_work)
        self._stored: dict[str, Any] = {}  # references to contents, by digest
        self._running: dict[Any, Trial | Training] = {}
        self.slots = self._room()
        self._looked = time.monotonic()
        if not self.slots:
            self.close()
            raise ValueError(
                f"--cpus, --gpus: no machine of the cluster has {options.cpus:g} CPUs and "
                f"{options.gpus:g} GPUs, or it has not joined yet"
            )

    def submit(self, item: Trial | Training) -> None:
        """Starts work on an item; what it reads is stored first, unless it is."""
        parcel = pack(item, self._options.cache_folder)
        contents = {file.digest: self._store(file) for file in parcel.files}
        self._running[self._task.remote(parcel, contents, self._code)] = item

    def finished(self, timeout: float) -> list[Outcome[Any]]:
        """Items that ended; see `Engine`.

        Raises:
            ValueError: a machine of the cluster has other code of adsim, or none.
        """
        if time.monotonic() - self._looked > _REFRESH_SECONDS:  # the cluster may grow or shrink
            self.slots, self._looked = max(self._room(), 1), time.monotonic()
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if ended:
            count = len(self._running)
            ended, _ = self._ray.wait(list(self._running), num_returns=count, timeout=0)
        return [self._outcome(reference) for reference in ended]

    def close(self) -> None:
        """Ends what is under way, and the local Ray."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running, self._stored = {}, {}
        if self._owns:
            self._ray.shutdown()

    def _room(self) -> int:
        """Items that the machines of the cluster have room for."""
        cpus, gpus = self._options.cpus, self._options.gpus
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                by_cpu = int(has.get("CPU", 0) / cpus)
                room += min(by_cpu, int(has.get("GPU", 0) / gpus)) if gpus else by_cpu
        return room

    def _store(self, file: Enclosed) -> Any:
        """Reference to the contents of a file in the object store."""
        if file.digest not in self._stored:
            self._stored[file.digest] = self._ray.put(Path(file.path).read_bytes())
        return self._stored[file.digest]

    def _outcome(self, reference: Any) -> Outcome[Any]:
        """What became of a task that ended."""
        item, errors = self._running.pop(reference), self._ray.exceptions
        try:
            outcome: Outcome[Any] = self._ray.get(reference)
        except errors.RayTaskError as error:  # `attempt` keeps what the work raises
            raise ValueError(
                "a machine of the cluster cannot load adsim: install the same version on all of "
                f"them ({_last_line(error)})"
            ) from None
        except errors.RayError as error:
            why = f"{type(error).__name__}: {_first_line(error)}"
            return Outcome(item, died=True, trace=f"the Ray worker died ({why})")
        if isinstance(outcome.error, OtherCodeError):
            raise ValueError(str(outcome.error))
        if isinstance(item, Training) and outcome.error is None:
            self._keep(outcome.value)
            outcome = outcome._replace(value=None)
        return outcome._replace(item=item)

    def _keep(self, made: dict[str, bytes]) -> None:
        """Writes what has been trained elsewhere to the folder of trained estimates."""
        for name, content in made.items():
            file = self._options.cache_folder / name
            if not file.is_file():
                with replacing(file) as partial:
                    partial.write_bytes(content)


def _work(parcel: Parcel, contents: dict[str, Any], code: str) -> Outcome[Any]:
    """What a task does, on any machine of the cluster."""
    import ray
    import torch

    if _code() != code:
        where = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        text = f"{where} has other code of adsim: install the same version on all machines"
        return Outcome(None, error=OtherCodeError(text))
    torch.set_num_threads(1)
    console.stderr.quiet = True  # the driver shows progress
    outcome = attempt(lambda p: work_on(p, lambda digest: ray.get(contents[digest])), parcel)
    return sendable(outcome._replace(item=None))


def _code() -> str:
    return code_digest("agents", "scenarios")


def _check(options: "Options") -> None:
    """Raises ValueError if options of Ray are out of range."""
    for name, least in (("cpus", "> 0"), ("gpus", ">= 0")):
        value = getattr(options, name)
        if value < 0 or (name == "cpus" and not value) or (value > 1 and value % 1):
            raise ValueError(f"--{name}: must be {least}, and whole above 1, got {value:g}")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ValueError('--engine ray needs Ray: pip install "adsim[ray]"') from None
    return ray


def _connect(ray: Any, options: "Options") -> None:
    """Starts a Ray of this machine, or joins the cluster at the address.

    Raises:
        ValueError: nothing answers there, or it is no cluster that this machine belongs to.
    """
    common = {
        "include_dashboard": False,
        "logging_level": "error",
        "log_to_driver": False,
        "runtime_env": {"env_vars": dict.fromkeys(THREADS, "1")},
    }
    if options.address is None:
        size = {"num_cpus": options.jobs, "object_store_memory": _STORE_BYTES}
        ray.init(address="local", **size, **common)
        return
    _check_address(options.address)
    try:
        ray.init(address=options.address, **common)
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"--address: no Ray cluster at {options.address} that this machine is part of "
            f"({_first_line(error)}); if its head has a token: RAY_AUTH_MODE=token"
        ) from None


def _check_address(address: str) -> None:
    """Raises ValueError unless something answers at HOST:PORT; Ray itself waits for long."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "/" in address:
        raise ValueError(f"--address: must be HOST:PORT of the head or auto, got {address!r}")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--address: nothing answers at {address} ({error})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
