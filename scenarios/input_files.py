"""Files that a world reads beside its scenario, known by their contents."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from adsim.config import WorldConfig


def named_inputs(config: WorldConfig) -> dict[str, Path]:
    """Files that a world reads, by the keys that name them.

    Raises:
        FileNotFoundError: one does not exist.
    """
    market = config.market
    named = {"market.landscape.price_counts": market.landscape.price_counts}
    if market.kind == "replay":
        named |= {f"market.replay.{name}": getattr(market.replay, name) for name in ("log", "info")}
    found = {key: Path(file) for key, file in named.items() if file}
    for key, file in found.items():
        if not file.is_file():
            raise FileNotFoundError(f"{key}: {file} does not exist")
    return found


def contents_of(config: WorldConfig) -> dict[str, Any]:
    """The configuration with digests in place of the names of its files: for keys of results."""
    plain = config.model_dump(mode="json")
    for key, file in named_inputs(config).items():
        *tables, name = key.split(".")
        table = plain
        for part in tables:
            table = table[part]
        table[name] = digest_of(file)
    return plain


def digest_of(file: Path) -> str:
    """Of what is in a file."""
    return _digest(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, modified_ns: int) -> str:
    return sha256(file.read_bytes()).hexdigest()
