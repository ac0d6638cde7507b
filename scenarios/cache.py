"""Where what takes long to make is kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder that `$ADSIM_CACHE` names, or ~/.cache/adsim; it need not exist."""
    given = os.environ.get("ADSIM_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "adsim"
