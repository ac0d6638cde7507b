"""From configuration to objects: worlds, environments, agents. The composition root."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from adsim.config import WorldConfig
from adsim.env import AuctionEnv, PacingEnv
from adsim.kernels import draw
from adsim.market import advertiser_budgets
from adsim.replay import ReplaySource
from adsim.source import SyntheticSource
from adsim.value_source import ValueSource
from adsim.vector_env import AuctionVectorEnv, PacingVectorEnv
from adsim.world import World
from agents import AGENTS
from agents.rivals import ScriptedRivals
from scenarios.schema import Scenario, load

TRAINED = "sb3:"  # of the name of an agent whose policy was trained with stable-baselines3


def make_world(
    config: WorldConfig,
    num_worlds: int = 1,
    *,
    num_threads: int = 1,
    record_prices: bool = False,
) -> World:
    """A world with the source and the rivals that its market needs."""
    announce_compilation()
    if config.market.kind == "replay":
        return World(config, num_worlds, source=ReplaySource(config, num_worlds))
    source = SyntheticSource(config, num_worlds)
    rivals = make_rivals(config, source, num_worlds) if config.market.kind == "population" else None
    return World(
        config,
        num_worlds,
        source=source,
        rivals=rivals,
        num_threads=num_threads,
        record_prices=record_prices,
    )


def announce_compilation() -> None:
    """Says on standard error, once per installation, why the first steps take long."""
    cache = draw.stats.cache_path
    if cache is not None and not any(Path(cache).glob("kernels.draw-*.nbi")):
        print("adsim: compiling its numeric loops (about 10 s, once)", file=sys.stderr)


def make_rivals(config: WorldConfig, source: SyntheticSource, num_worlds: int) -> ScriptedRivals:
    """Scripted policies, dealt in turn to the advertisers 1..A-1."""
    population = config.market.population
    kinds = population.rivals
    share = source.expected_traffic / source.expected_traffic.sum()
    return ScriptedRivals(
        kinds=[kinds[(a - 1) % len(kinds)] for a in range(population.n_advertisers)],
        budgets=advertiser_budgets(config, source.structures[0]),
        expected_traffic_share=share,
        num_worlds=num_worlds,
        linear_multiplier=population.linear_multiplier,
    )


def resolve(
    scenario: str | Path | Scenario, overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """A loaded scenario."""
    return scenario if isinstance(scenario, Scenario) else load(scenario, overrides)


def make_auction_env(
    scenario: str = "default",
    overrides: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    record_prices: bool = False,
    estimates: str = "platform",
) -> AuctionEnv:
    """Entry point of adsim/Auction-v0."""
    config = resolve(scenario, overrides).world
    world = make_world(config, record_prices=record_prices)
    return AuctionEnv(world, render_mode, value_source=_values(estimates, world))


def make_pacing_env(
    scenario: str = "default",
    overrides: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    per_scene: bool = False,
    record_prices: bool = False,
    estimates: str = "platform",
    learn: bool = False,
) -> PacingEnv:
    """Entry point of adsim/Pacing-v0."""
    config = resolve(scenario, overrides).world
    world = make_world(config, record_prices=record_prices)
    values = _values(estimates, world, learn=learn)
    return PacingEnv(world, render_mode, per_scene=per_scene, value_source=values)


def make_auction_vector_env(
    num_envs: int = 1,
    scenario: str = "default",
    overrides: Mapping[str, Any] | None = None,
    autoreset_mode: str = "NextStep",
    num_threads: int = 1,
    record_prices: bool = False,
    estimates: str = "platform",
) -> AuctionVectorEnv:
    """Vector entry point of adsim/Auction-v0."""
    config = resolve(scenario, overrides).world
    world = make_world(config, num_envs, num_threads=num_threads, record_prices=record_prices)
    return AuctionVectorEnv(world, autoreset_mode, value_source=_values(estimates, world))


def make_pacing_vector_env(
    num_envs: int = 1,
    scenario: str = "default",
    overrides: Mapping[str, Any] | None = None,
    autoreset_mode: str = "NextStep",
    num_threads: int = 1,
    record_prices: bool = False,
    per_scene: bool = False,
    estimates: str = "platform",
) -> PacingVectorEnv:
    """Vector entry point of adsim/Pacing-v0."""
    config = resolve(scenario, overrides).world
    world = make_world(config, num_envs, num_threads=num_threads, record_prices=record_prices)
    values = _values(estimates, world)
    return PacingVectorEnv(world, autoreset_mode, per_scene=per_scene, value_source=values)


def _values(estimates: str, world: World, learn: bool = False) -> ValueSource | None:
    """The value source of an environment; see `scenarios.values.make_values`."""
    if estimates == "platform" and not learn:
        return None
    from scenarios.values import make_values  # imports torch

    return make_values(estimates, world, learn=learn)


def make_agent(name: str) -> Any:
    """An agent of the registry, a trained one, or the user's own.

    Args:
        name: of the registry, `sb3:FOLDER` with the policy of a training, `module:Class` or
            `path/file.py:Class`.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: no such agent, it cannot be made without arguments, it lacks a method, or the
            folder's files are damaged.
    """
    if name.startswith(TRAINED):
        from scenarios.policy import PolicyAgent  # loads pandas and torch

        return PolicyAgent(Path(name.removeprefix(TRAINED)))
    if ":" not in name:
        if name not in AGENTS:
            raise ValueError(f"agent {name!r} does not exist: one of {', '.join(sorted(AGENTS))}")
        return AGENTS[name]()
    origin, _, attribute = name.rpartition(":")
    try:
        agent = getattr(_user_module(origin), attribute)()
    except Exception as error:  # whatever the user's code raises is the user's to mend
        raise ValueError(f"agent {name!r} cannot be made: {error!r}") from error
    lacking = [part for part in ("reset", "act", "observe") if not hasattr(agent, part)]
    if not isinstance(getattr(agent, "privileged", None), bool):
        lacking.append("privileged (True or False)")
    if lacking:
        raise ValueError(f"agent {name!r} lacks {', '.join(lacking)}: see adsim.types.Agent")
    return agent


def _user_module(origin: str) -> ModuleType:
    """The module named so, or the Python file at that path."""
    path = Path(origin if origin.endswith(".py") else f"{origin}.py")
    if not path.is_file():
        return importlib.import_module(origin)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
