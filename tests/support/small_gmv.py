"""GMV predictors so small that a test trains them in a fraction of a second, and their logs."""

from functools import cache

import numpy as np
import torch
from purchase_logs import DAY
from small_predictors import impressions

from adsim.clicklog import MISSING
from adsim.purchaselog import PurchaseLog
from adsim.types import Target
from predictors import PREDICTORS, GmvPredictor, GmvPretraining
from predictors.gmv_metrics import evaluate_gmv
from predictors.purchase_rows import num_purchases
from predictors.purchase_stream import PurchaseStream, run_gmv_stream
from predictors.stream import Split

# Windows of a day; twelve segments of three hours.
SPLIT = Split(
    pretrain_days=3, stream_start_day=4, stream_end_day=5.5, segment_days=0.125, closed="left"
)
SIZES = {
    "attribution_seconds": DAY,
    "embedding_dim": 2,
    "encoder_widths": (8,),
    "tower_widths": (8, 4),
    "router_widths": (8,),
    "calibrator_widths": (8,),
    "batch_size": 32,
}
NAMES = sorted(name for name, cls in PREDICTORS.items() if issubclass(cls, GmvPredictor))
PRIVILEGED = {"oracle_single", "oracle_dual"}
LEARNING = sorted(set(NAMES) - {"pre_single", "pre_dual"})
DUAL = sorted(name for name in NAMES if PREDICTORS[name].towers == 2)


def table_log(click_time, features, cardinalities, delay, amount):
    """A log of clicks (C,) with up to K purchases: delays and amounts (C, K), NaN for none."""
    bought = ~np.isnan(amount)
    size = click_time.size
    unknown = np.full(size, np.nan)
    return PurchaseLog(
        click_time=click_time.astype(np.int64),
        features=features.astype(np.int32),
        cardinalities=cardinalities,
        offset=np.concatenate([[0], np.cumsum(bought.sum(1))]),
        purchase_time=(click_time[:, None] + delay)[bought].astype(np.int64),
        amount=amount[bought],
        refund_time=np.full(bought.sum(), MISSING),
        gmv_truth=unknown,
        p_repurchase=unknown,
        net_gmv_truth=unknown,
    )


def random_table(count, days, seed=0):
    """Clicks of some days whose features say how dear they are and how likely they buy again.

    Amounts are lognormal around 20 to 180; each of up to four purchases has a random moment in a
    window of a day.
    """
    rng = np.random.default_rng(seed)
    click = np.sort(rng.integers(0, int(days * DAY), count))
    cardinalities = (30, 6, 5)
    features = rng.integers(0, cardinalities, (count, 3))
    again = rng.random((count, 4)) < (0.15 + 0.12 * features[:, 2])[:, None]
    again[:, 0] = True
    bought = np.logical_and.accumulate(again, axis=1)
    amount = 20 * (1 + features[:, 1, None] * 1.6) * rng.lognormal(0, 0.4, (count, 4))
    delay = np.sort(rng.integers(0, DAY, (count, 4)), axis=1)
    return table_log(click, features, cardinalities, delay, np.where(bought, amount, np.nan))


@cache
def small_log():
    """300 clicks a day, until the last segment is scored."""
    return random_table(1_695, 5.65)


def without(log, dropped):
    """The log without some clicks (C,)."""
    kept, number = ~dropped, num_purchases(log)
    bought = np.repeat(kept, number)
    columns = {
        name: getattr(log, name)[kept]
        for name in ("click_time", "features", "gmv_truth", "p_repurchase", "net_gmv_truth")
    }
    columns |= {name: getattr(log, name)[bought] for name in ("purchase_time", "amount")}
    offset = np.concatenate([[0], np.cumsum(number[kept])])
    return log._replace(**columns, offset=offset, refund_time=log.refund_time[bought])


def single_buys(*seconds):
    """The clicks of before the stream, then some that buy once, at once: seconds of the stream."""
    log = small_log()
    old = without(log, log.click_time >= 3 * DAY)
    size = len(seconds)
    click = 4 * DAY + np.array(seconds)
    new = table_log(
        *(click, log.features[:size], log.cardinalities),
        *(np.zeros((size, 1)), np.full((size, 1), 50.0)),
    )
    both = {
        name: np.concatenate([getattr(old, name), getattr(new, name)])
        for name in log._fields
        if name not in ("cardinalities", "offset")
    }
    offset = np.concatenate([old.offset, old.offset[-1] + new.offset[1:]])
    return log._replace(**both, offset=offset)


def stream(log=None):
    return PurchaseStream(log or small_log(), SPLIT, attribution_seconds=DAY)


@cache
def pretraining():
    """Shared by the predictors of one process: every network is trained once."""
    return GmvPretraining(stream().history(), SPLIT)


def new_predictor(name, cardinalities=None, *, device="cpu", **settings):
    """An untrained one."""
    cls = PREDICTORS[name]
    config = cls.config_class(**(SIZES | settings))
    return cls(cardinalities or small_log().cardinalities, config, device=device)


def attached(predictor, log=None):
    """The predictor, which is told what it may know if it is the dual oracle."""
    return predictor.attach(log or small_log()) if predictor.name == "oracle_dual" else predictor


def fitted(name, *, follow=True, log=None, **settings):
    """A small predictor, ready for the stream of `small_log`, or of one with its history."""
    predictor, shared = new_predictor(name, **settings), pretraining()
    predictor.fit(shared.history, SPLIT, pretraining=shared, follow=follow)
    return attached(predictor, log)


def played(predictor, windows, plays=None):
    """Trains on windows; estimates after each."""
    plays, found = plays or stream(), []
    for k in windows:
        predictor.partial_fit(plays.window(k, privileged=predictor.privileged))
        found.append(gmv(predictor, some_ids()))
    return found


def some_ids(count=200):
    """The first clicks of `small_log` as impressions."""
    return impressions(small_log().features[:count])


def gmv(predictor, held):
    """Estimates (M,)."""
    return predictor.predict(held)[Target.GMV].mean


def learned(arrays):
    """Weights, moments and generator."""
    parts = ("nets/", "frozen/", "adam_", "draws/")
    return {name: array for name, array in arrays.items() if name.startswith(parts)}


class World:
    """A log, its split, and the networks that were trained before its stream.

    Args:
        log: of clicks.
        split: of the log.
        settings: of all predictors.
    """

    def __init__(self, log, split, **settings):
        self.log, self.split = log, split
        self.settings = settings
        window = settings["attribution_seconds"]
        self.stream = PurchaseStream(log, split, attribution_seconds=window)
        self.pretraining = GmvPretraining(self.stream.history(), split)

    def predictor(self, name, **settings):
        """Ready for the stream."""
        cls = PREDICTORS[name]
        config = cls.config_class(**(self.settings | settings))
        predictor = cls(self.log.cardinalities, config)
        history = self.pretraining.history
        predictor.fit(history, self.split, pretraining=self.pretraining, follow=True)
        return attached(predictor, self.log)

    def run(self, name, **settings):
        """The stream's result."""
        return run_gmv_stream(self.predictor(name, **settings), self.stream)


def scores(result, rows=slice(None)):
    """Metrics of some rows of a result, pooled."""
    return evaluate_gmv(result.label[rows], result.gmv[rows])


def say(layer, output):
    """Makes the last layer of a network give this output whatever its input."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(output)
