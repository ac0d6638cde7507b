"""The registry of predictors; their contracts are in `adsim.types`."""

from collections.abc import Callable

from adsim.types import Corrector, Predictor

PREDICTORS: dict[str, type] = {}
CORRECTORS: dict[str, type] = {}


def register_predictor(name: str) -> Callable[[type], type]:
    """Class decorator that adds a predictor to the registry under a name.

    Raises:
        ValueError: the name is taken.
    """

    def add(cls: type) -> type:
        if name in PREDICTORS:
            raise ValueError(f"predictor {name!r} is registered already")
        PREDICTORS[name] = cls
        return cls

    return add


__all__ = ["CORRECTORS", "PREDICTORS", "Corrector", "Predictor", "register_predictor"]
