"""What trials read, sent to machines that may not share a disk with the one that sends.

A parcel names the files of an item (`Trial` or `Training`) by what they are for, with digests of
their contents. Where an item is worked on, files that are there already, under the same names and
with the same contents, are read in place; the others are written to a folder of that machine, whose
name is a hash of the contents, and the item is told to read them there.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from adsim.datasets.blocks import replacing
from scenarios.build import TRAINED
from scenarios.input_files import digest_of, named_inputs
from scenarios.stacks import needs_warm_up
from scenarios.trial import (
    Training,
    Trial,
    World,
    agent_files,
    labels_of,
    play_trial,
    scenario_of,
    train,
    trained_files,
)

Fetch = Callable[[str], bytes]
"""Contents of a file by their digest."""


class Enclosed(NamedTuple):
    """A file that travels."""

    path: str  # absolute, where it comes from
    digest: str

    @property
    def is_here(self) -> bool:
        """Whether this machine has it at that path."""
        path = Path(self.path)
        return path.is_file() and digest_of(path) == self.digest


class Parcel(NamedTuple):
    """An item and its files."""

    item: Trial | Training
    labels: dict[str, Any]  # of a trial's results: they must not tell where it was played
    scenario: tuple[Enclosed, ...]  # the .toml file; none of a scenario of the package
    inputs: dict[str, Enclosed]  # by key of the scenario
    agent: tuple[Enclosed, ...]  # files of the user's own agent
    trained: tuple[Enclosed, ...]  # estimates of the world

    @property
    def files(self) -> list[Enclosed]:
        """All that travel."""
        return [*self.scenario, *self.inputs.values(), *self.agent, *self.trained]


def pack(item: Trial | Training, cache: Path) -> Parcel:
    """What has to be sent with an item.

    Args:
        item: to be worked on.
        cache: folder of trained estimates.

    Raises:
        ValueError, FileNotFoundError: as `settings_of`.
    """
    world, trial = item.world, item if isinstance(item, Trial) else None
    toml = [Path(world.scenario)] if world.scenario.endswith(".toml") else []
    inputs = named_inputs(scenario_of(world).world)
    learned = trial is None or needs_warm_up(trial.estimates)
    return Parcel(
        item,
        labels_of(trial) if trial else {},
        _enclosed(toml),
        {key: _enclosed([file])[0] for key, file in inputs.items()},
        _enclosed(agent_files(trial.agent)) if trial else (),
        _enclosed(trained_files(cache, world)) if learned else (),
    )


def _enclosed(files: Sequence[Path]) -> tuple[Enclosed, ...]:
    return tuple(Enclosed(str(file.absolute()), digest_of(file)) for file in files)


def work_on(parcel: Parcel, fetch: Fetch) -> Any:
    """Does what `scenarios.trial.do` does, on any machine.

    Returns:
        Of a trial the content of its file; of a training its new files, contents by name.
    """
    item, world = parcel.item, _local_world(parcel, fetch)
    if isinstance(item, Training):
        known = [(Path(file.path).name, fetch(file.digest)) for file in parcel.trained]
        with tempfile.TemporaryDirectory(prefix="adsim-") as folder:
            for name, content in known:
                Path(folder, name).write_bytes(content)
            train(Path(folder), item._replace(world=world))
            made = {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
        return {name: made[name] for name in made.keys() - dict(known).keys()}
    cache = _folder_of(parcel.trained, fetch)
    trial = item._replace(world=world, agent=_local_agent(parcel, fetch))
    return play_trial(cache, trial, parcel.labels)


def _local_world(parcel: Parcel, fetch: Fetch) -> World:
    """The world, read from files of this machine."""
    world, overrides = parcel.item.world, json.loads(parcel.item.world.overrides)
    for key, file in parcel.inputs.items():
        overrides[key] = str(_folder_of((file,), fetch) / Path(file.path).name)
    scenario = world.scenario
    if parcel.scenario:
        scenario = str(_folder_of(parcel.scenario, fetch) / Path(scenario).name)
    return world._replace(scenario=scenario, overrides=json.dumps(overrides))


def _local_agent(parcel: Parcel, fetch: Fetch) -> str:
    """The name of the agent on this machine."""
    assert isinstance(parcel.item, Trial)
    name, files = parcel.item.agent, parcel.agent
    if not files:
        return name
    with suppress(ImportError, ValueError):  # a module, or a file, that is not here
        if [digest_of(file) for file in agent_files(name)] == [file.digest for file in files]:
            return name
    folder = _folder_of(files, fetch)
    if name.startswith(TRAINED):
        return f"{TRAINED}{folder}"
    return f"{folder / Path(files[0].path).name}:{name.rpartition(':')[2]}"


def _folder_of(files: Sequence[Enclosed], fetch: Fetch) -> Path:
    """A folder of this machine with the files, which are of one folder."""
    if files and all(file.is_here for file in files):
        return Path(files[0].path).parent
    named = {Path(file.path).name: file.digest for file in files}
    key = sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"adsim-{os.getuid()}" / key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, digest in named.items():
        if not Enclosed(str(folder / name), digest).is_here:
            content = fetch(digest)
            with replacing(folder / name) as partial:
                partial.write_bytes(content)
    return folder
