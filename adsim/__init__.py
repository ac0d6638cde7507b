"""adsim: an auto-bidding simulator with delayed conversions, refunds and repurchases.

Importing it registers the Gymnasium environments `adsim/Auction-v0` and `adsim/Pacing-v0`; their
entry points are strings, resolved only by `gymnasium.make`.
"""

from gymnasium.envs.registration import register, registry

__version__ = "0.1.0"


def _register_environments() -> None:
    """Registers the environments once."""
    for name in ("Auction", "Pacing"):
        identifier = f"adsim/{name}-v0"
        if identifier not in registry:
            register(
                identifier,
                entry_point=f"scenarios.build:make_{name.lower()}_env",
                vector_entry_point=f"scenarios.build:make_{name.lower()}_vector_env",
            )


_register_environments()
