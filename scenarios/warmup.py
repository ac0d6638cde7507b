"""Predictors that have learned from the time before a campaign.

The historical log has the campaign's structure and the length of whole campaigns, drawn from seeds
of its own stream: what the campaign meets does not depend on it. Hidden effects stand where they
are when the campaign starts, and there are no shocks: nothing of the campaign's own future is in
it. (Drift before the start is left out: estimates are as good as they can be on the first day.)

Clicks are a selection. An impression x is in the log with a probability in proportion to
P(click | x), as among the clicks of a campaign; a log of all impressions would hold too many that
are hardly ever clicked. `Structure` sets the mean CVR among clicks, so that it is right in this
log only. What a campaign wins is selected once more, by its bids: that is left to its stream.

Feedback on the log's clicks ends where the campaign starts. The first days of a campaign therefore
bring fresh clicks without the late conversions of earlier ones, and methods that take fresh clicks
for negatives, to be corrected later, learn too low a CVR from them.
"""

import json
import math
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from adsim.clicklog import MISSING, ClickLog, generate
from adsim.config import CampaignConfig, NoiseConfig, WorldConfig
from adsim.impressionlog import ImpressionLog, generate_impressions
from adsim.market_config import Model
from adsim.purchaselog import PurchaseLog, generate_purchases
from adsim.rng import derive, uniforms
from adsim.source import SyntheticSource
from adsim.types import FloatArray, Impressions, Target
from predictors import PREDICTORS, GmvPredictor, NetCVRPredictor, RefundShare, ScenePredictor
from predictors.arrays import load_arrays, save_arrays
from predictors.calibration import Line, fit_line
from predictors.delivery import DAY_SECONDS, Windows, final_labels, known_at
from predictors.netcvr_baselines import FakeNegativeCalibration
from predictors.neural import NeuralPredictor, load_predictor
from predictors.purchase_rows import final_gmv, purchases_known_at
from predictors.stream import Split
from predictors.training import BasePretraining
from scenarios import console
from scenarios.deployed import DEPLOYED
from scenarios.input_files import contents_of
from scenarios.log_parts import joined, thinned_clicks, thinned_purchases
from scenarios.requests import Requests, sample_requests
from scenarios.tasks import code_digest

WARMUP_STREAM = 102  # of rng: apart from every stream of a world
_CAPPED = 1e-3  # share of the impressions that are kept for certain: too few of them are
_SAMPLE = 50_000  # impressions from which the thinning is found


class HistoryConfig(Model):
    """Size of the historical log."""

    days: Annotated[int, Field(ge=12)] = 28
    """Days before the campaign; the last ten or fewer, whose labels are open, are not used."""
    clicks_per_day: Annotated[float, Field(gt=0)] = 30_000.0
    """Mean number of clicks."""
    impressions_per_day: Annotated[float, Field(gt=0)] = 20_000.0
    """Mean number of shown impressions, from which CTR is learned."""


class History(NamedTuple):
    """What is known of clicks when the campaign starts."""

    clicks: ClickLog
    purchases: PurchaseLog


class WarmUp:
    """Predictors of a world, ready for its campaigns; each is trained once.

    Args:
        config: the world; neither the campaign's terms nor the platform's noise play a part in what
            is trained.
        size: of the log.
        seed: of initial weights and the order of training rows.
        cache: folder in which trained predictors are kept, under a key of all that determines
            them, the code included; None: none are.

    Raises:
        ValueError: a replay, or structures that change with every episode: no log fits them.
    """

    def __init__(
        self,
        config: WorldConfig,
        size: HistoryConfig | None = None,
        *,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        if config.market.kind == "replay" or config.randomize_structure:
            raise ValueError(
                "a warm-up needs a structure that is known: market.kind must not be 'replay', "
                "randomize_structure must be False"
            )
        self.size, self.seed, self._cache = size or HistoryConfig(), seed, cache
        self._world = config
        plain = {"shocks": (), "reward": "cash"}
        plain |= {"campaign": CampaignConfig(), "platform_noise": NoiseConfig()}
        self.config = config.model_copy(update=plain)
        self._shared: dict[Any, BasePretraining] = {}
        self._episodes = math.ceil(24 * self.size.days / config.time.horizon_hours)
        self._start_second = round(self._episodes * config.time.horizon_hours * 3600)

    @cached_property
    def digest(self) -> str:
        """Of all that trained predictors depend on, but for the code."""
        about = [contents_of(self.config), self.size.model_dump(mode="json"), self.seed]
        return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @cached_property
    def history(self) -> History:
        """The clicks of the time before the campaign, as known when it starts."""
        with console.progress("history", self._episodes) as advance:
            source, parts = self._source(self.size.clicks_per_day / self._thinning[1]), []
            for episode in range(self._episodes):
                parts.append(self._episode(source, episode))
                advance()
        clicks, purchases = (joined(list(logs)) for logs in zip(*parts, strict=True))
        before = self._start_second - 1
        return History(known_at(clicks, before), purchases_known_at(purchases, before))

    @cached_property
    def impressions(self) -> ImpressionLog:
        """Impressions shown before the campaign, with their clicks; their truth is hidden (NaN)."""
        source, parts = self._source(self.size.impressions_per_day), []
        for episode in range(self._episodes):
            seed = self._seed(episode, 1)
            with source.rehearsal(0, seed):
                one = generate_impressions(source.config, seed, source=source)
            hidden = np.full_like(one.p_click, np.nan)
            parts.append(one._replace(time=one.time + self._offset(episode), p_click=hidden))
        return joined(parts)

    @cached_property
    def requests(self) -> Requests:
        """Bid requests before the campaign, with what the platform shows of them."""
        return sample_requests(self._world)

    def predictor(self, name: str, **settings: Any) -> NeuralPredictor[Any]:
        """A predictor, ready for the first window of a campaign.

        Args:
            name: in `PREDICTORS`; one that learns and is not privileged.
            settings: of its configuration, on top of `DEPLOYED` and the world's windows.

        Raises:
            ValueError: no such predictor, or a log that is too short for its labels.
        """
        cls, config = self._configured(name, settings)
        file = self._file(name, config.model_dump(mode="json"))
        if file is not None and file.is_file():
            return load_predictor(file)
        split = self._split(cls, config)
        log: Any = self._log(cls, config)
        predictor = cls(log.cardinalities, config, seed=self.seed)
        with console.progress(f"warm-up of {name}", 1) as advance:
            predictor.fit(log, split, pretraining=self._pretraining(cls, split, log))
            advance()
        if file is not None:
            predictor.save(file)
        return predictor

    def gmv_factor(self, name: str | None = None, **settings: Any) -> float:
        """Mean GMV of converted clicks over their mean estimate, on the log.

        Networks learn medians of GMV, whose mean is higher. Without a predictor the estimate is
        the list price of the item, which is one of possibly several purchases.

        Args:
            name: of a predictor of GMV, see `predictor`; None: list prices.
            settings: of its configuration.
        """
        about = (
            None if name is None else self._configured(name, settings)[1].model_dump(mode="json")
        )
        file = self._file("gmv_factor", {"of": name, "settings": about})
        if file is not None and file.is_file():
            return float(load_arrays(file)["factor"])
        log = self.history.purchases
        last = self._start_second - round(3600 * self.config.windows.gmv_hours)
        rows = slice(int(np.searchsorted(log.click_time, last)))
        label, features = final_gmv(log)[rows], log.features[rows]
        if name is None:
            estimate = self._list_prices(features)
        else:
            clicks = as_impressions(features)
            estimate = self.predictor(name, **settings).predict(clicks)[Target.GMV].mean
        factor = float(label.sum() / estimate.sum())
        if file is not None:
            save_arrays(file, {"factor": np.array(factor)})
        return factor

    def cvr_line(self, name: str, **settings: Any) -> Line:
        """Calibration of a predictor's CVR, on clicks that it was not trained on.

        They are the latest whose conversions are final: refunds, which it learns, too, take longer.

        Args:
            name: of a predictor of CVR that learns refunds, see `predictor`.
            settings: of its configuration.
        """
        cls, config = self._configured(name, settings)
        file = self._file("cvr_line", {"of": name, "settings": config.model_dump(mode="json")})
        if file is not None and file.is_file():
            return Line(*load_arrays(file)["line"].tolist())
        log, seconds = self.history.clicks, round(3600 * self.config.windows.conversion_hours)
        first = round(self._split(cls, config).pretrain_days * DAY_SECONDS)
        rows = slice(*np.searchsorted(log.click_time, [first, self._start_second - seconds]))
        label = final_labels(log, config.windows).y[rows]
        clicks = as_impressions(log.features[rows])
        line = fit_line(label, self.predictor(name, **settings).predict(clicks)[Target.CVR].mean)
        if file is not None:
            save_arrays(file, {"line": np.array(line)})
        return line

    def _pretraining(self, cls: Any, split: Split, log: Any) -> BasePretraining:
        """Of a family: methods share networks that they all start from."""
        key = (cls.pretraining_class, split, type(log))
        if key not in self._shared:
            self._shared[key] = cls.pretraining_class(log, split, seed=self.seed)
        return self._shared[key]

    def _configured(self, name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
        """Class and configuration of a predictor."""
        able = {
            n: cls
            for n, cls in sorted(PREDICTORS.items())
            if issubclass(cls, NeuralPredictor) and not cls.privileged
        }
        if name not in able:
            raise ValueError(f"predictor {name!r} has no warm-up: one of {', '.join(able)}")
        return able[name], able[name].config_class(**{**self._usual(able[name]), **settings})

    def _usual(self, cls: type) -> dict[str, Any]:
        """Settings of a predictor in this world, unless others are given."""
        hours, entities = self.config.windows, self.config.entities
        conversion, gmv, refund = (
            round(3600 * h) for h in (hours.conversion_hours, hours.gmv_hours, hours.refund_hours)
        )
        usual = Windows()
        observed = usual.conversion_observation, usual.refund_observation
        windows = Windows(
            conversion,
            refund,
            *(min(pair) for pair in zip(observed, (conversion, refund), strict=True)),
        )
        scene = 2 + len(entities.user_cardinalities) + len(entities.item_cardinalities)
        of_world: dict[type, dict[str, Any]] = {
            NetCVRPredictor: {"windows": windows, "scene_field": scene},
            GmvPredictor: {"attribution_seconds": gmv, "scene_field": scene},
            RefundShare: {"attribution_seconds": gmv, "refund_seconds": refund},
            ScenePredictor: {"windows": windows, "scene_field": scene},
        }
        family = next(family for family in DEPLOYED if issubclass(cls, family))
        # A campaign is too short to bring FNC's network where its corrections expect it.
        own = {"pretrain_fake_negatives": True} if issubclass(cls, FakeNegativeCalibration) else {}
        return DEPLOYED[family] | of_world[family] | own

    def _log(self, cls: type, config: Any) -> ClickLog | PurchaseLog | ImpressionLog:
        """What a predictor learns from before the campaign."""
        if issubclass(cls, GmvPredictor | RefundShare):
            return self.history.purchases
        if issubclass(cls, ScenePredictor) and config.target == "ctr":
            return self.impressions
        return self.history.clicks

    def _split(self, cls: type, config: Any) -> Split:
        """The days whose labels are final, and the start of the campaign."""
        hours = self.config.windows
        open_hours = {
            NetCVRPredictor: hours.conversion_hours + hours.refund_hours,
            GmvPredictor: hours.gmv_hours,
            RefundShare: hours.gmv_hours + hours.refund_hours,
            ScenePredictor: hours.conversion_hours,
        }[next(family for family in DEPLOYED if issubclass(cls, family))]
        if getattr(config, "target", "") == "ctr":
            open_hours = 0.0
        start, last = self._start_second, self._start_second - math.ceil(3600 * open_hours)
        if last <= 0:
            raise ValueError(
                f"days must be > {open_hours / 24:g} for labels of {cls.name} to close"
            )
        days, end = start / DAY_SECONDS, start / DAY_SECONDS + 1
        return Split(
            pretrain_days=last / DAY_SECONDS,
            stream_start_day=days,
            stream_end_day=end,
            segment_days=1.0,
        )

    def _file(self, name: str, about: dict[str, Any]) -> Path | None:
        """Where something trained is kept."""
        if self._cache is None:
            return None
        self._cache.mkdir(parents=True, exist_ok=True)
        digest = sha256(json.dumps([name, about], sort_keys=True).encode()).hexdigest()[:16]
        return self._cache / f"{name}-{self._made}-{digest}.npz"

    @cached_property
    def _made(self) -> str:
        """Digest of the world and of the code: part of the names of all its files."""
        made_by = f"{self.digest} {code_digest()} {_own_digest()}"
        return sha256(made_by.encode()).hexdigest()[:16]

    def files(self) -> list[Path]:
        """What is kept of this world."""
        return [] if self._cache is None else sorted(self._cache.glob(f"*-{self._made}-*.npz"))

    def _list_prices(self, features: NDArray[np.int32]) -> FloatArray:
        """Of the items (N,) of clicks with fields (N, F), currency."""
        item = features[:, 1 + len(self.config.entities.user_cardinalities)]
        return SyntheticSource(self.config, 1).structures[0].list_price[item]

    def _seed(self, episode: int, kind: int) -> int:
        """Of an episode of clicks (0) or of impressions (1)."""
        return derive(self.config.structure_seed, WARMUP_STREAM, 2 * episode + kind)

    def _offset(self, episode: int) -> int:
        """Second of the log at which an episode starts."""
        return round(episode * self.config.time.horizon_hours * 3600)

    def _source(self, per_day: float) -> SyntheticSource:
        """The world with other traffic."""
        per_tick = per_day * self.config.time.tick_hours / 24
        update = {"impressions_per_tick": per_tick, "slots_per_tick": None}
        traffic = self.config.traffic.model_copy(update=update)
        return SyntheticSource(self.config.model_copy(update={"traffic": traffic}), 1)

    @cached_property
    def _thinning(self) -> tuple[float, float]:
        """P(click) from which on impressions are kept for certain; share of all that are kept."""
        source = self._source(_SAMPLE * 24 / self.config.time.horizon_hours)
        seed = self._seed(0, 0)
        with source.rehearsal(0, seed):
            sample = generate_impressions(source.config, seed, source=source).p_click
        highest = float(np.quantile(sample, 1 - _CAPPED))
        return highest, float(np.minimum(sample / highest, 1.0).mean())

    def _episode(self, source: SyntheticSource, episode: int) -> History:
        """The clicks of one episode: three views of the same impressions, thinned alike."""
        config, seed, offset = source.config, self._seed(episode, 0), self._offset(episode)
        with source.rehearsal(0, seed):
            p_click = generate_impressions(config, seed, source=source).p_click
            clicks = generate(config, seed, source=source)
            purchases = generate_purchases(config, seed, source=source)
        draws = uniforms(seed, WARMUP_STREAM, np.arange(p_click.size))[:, 0]
        kept, converted = draws < p_click / self._thinning[0], clicks.conversion_time != MISSING
        return History(
            thinned_clicks(clicks, kept, offset),
            thinned_purchases(purchases, kept[converted], offset),
        )


@cache
def _own_digest() -> str:
    """Of the sources of this package that decide on what is trained."""
    digest = sha256()
    for name in ("warmup.py", "deployed.py", "log_parts.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


def as_impressions(features: NDArray[np.int32]) -> Impressions:
    """Clicks with fields (N, F) as impressions; their moment and scene are not told."""
    size = len(features)
    scene, mask = np.zeros(size, np.int32), np.ones(size, np.int8)
    return Impressions(np.arange(size), np.zeros(size), features, scene, mask)
