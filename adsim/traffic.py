"""The clock of a campaign: expected traffic, hourly effects and shocks per tick, arrivals."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import pdtrc, pdtrik

from adsim.config import WorldConfig
from adsim.curves import DAILY_TRAFFIC, HOURLY_TRAFFIC
from adsim.datasets.bat import read_traffic_share
from adsim.rng import Stream, uniforms
from adsim.types import FloatArray, IntArray

OVERFLOW_PROBABILITY = 1e-6  # a tick overflows its slots with less than this probability


class Clock(NamedTuple):
    """What depends on the tick only."""

    expected_traffic: FloatArray  # (T,) expected impressions
    offset: FloatArray  # (T, 5) added to the five responses, logits (log for amounts)
    log_price: FloatArray  # (T,) added to the log price to beat
    tick_hours: float
    drift_step: IntArray  # (T,) index of the drift step in force


def weekly_profile(config: WorldConfig) -> FloatArray:
    """Traffic by hour of the week (168,), mean 1."""
    traffic = config.traffic
    profile: FloatArray = np.ones(168, dtype=np.float64)
    if traffic.traffic_share is not None:
        profile = read_traffic_share(traffic.traffic_share, traffic.region_id)
    elif traffic.profile == "weekly":
        profile = (np.array(DAILY_TRAFFIC)[:, None] * np.array(HOURLY_TRAFFIC)).ravel()
    return np.array(profile / profile.mean(), dtype=np.float64)


def tick_hours_of_week(config: WorldConfig) -> FloatArray:
    """Hour of the week in the middle of each tick, (T,)."""
    time = config.time
    middle = (np.arange(time.num_ticks) + 0.5) * time.tick_hours
    return np.mod(time.start_hour_of_week + middle, 168.0)


def _expected_traffic(config: WorldConfig) -> FloatArray:
    """Mean impressions of each tick: the profile integrated over the tick, (T,)."""
    time = config.time
    cumulative = np.concatenate([[0.0], np.cumsum(weekly_profile(config))])

    def integral(hours: FloatArray) -> FloatArray:
        weeks, rest = np.divmod(hours, 168.0)
        return weeks * cumulative[-1] + np.interp(rest, np.arange(169), cumulative)

    edges = time.start_hour_of_week + time.tick_hours * np.arange(
        time.num_ticks + 1, dtype=np.float64
    )
    share = np.diff(integral(edges)) / time.tick_hours
    return config.traffic.impressions_per_tick * share


def make_clock(config: WorldConfig, bias: FloatArray) -> Clock:
    """The campaign's clock; `bias` (5,) are the structure's offsets."""
    time = config.time
    starts = np.arange(time.num_ticks) * time.tick_hours
    hour = (tick_hours_of_week(config) % 24).astype(np.int64)
    offset = np.tile(bias, (time.num_ticks, 1))
    traffic = _expected_traffic(config)
    cvr = np.array(config.conversion.hourly) * (
        config.conversion.cvr / np.mean(config.conversion.hourly)
    )
    logit = np.log(cvr / (1 - cvr))[hour]
    gmv = np.array(config.purchase.hourly)[hour]
    # Centred over the traffic, so that the configured means are those of the whole campaign.
    offset[:, 1] += logit - np.average(logit, weights=traffic)
    offset[:, 3] += np.log(gmv / np.average(gmv, weights=traffic))
    # One daily wave with its peak at 20 h. Free choice: no published figure.
    wave = np.cos((tick_hours_of_week(config) % 24 - 20.0) * (np.pi / 12))
    log_price = config.market.landscape.hour_amplitude * wave
    for shock in config.shocks:
        on = (starts >= shock.start_hours) & (starts < shock.end_hours)
        traffic[on] *= shock.traffic
        log_price[on] += np.log(shock.price)
        factors = (shock.ctr, shock.cvr, shock.refund, shock.amount, 1.0)
        offset[on] += np.log(factors)
    drift_step = (starts / config.drift.step_hours).astype(np.int64)
    return Clock(traffic, offset, log_price, time.tick_hours, drift_step)


def slots_per_tick(config: WorldConfig, expected: FloatArray) -> int:
    """M: slots so that no tick overflows with probability OVERFLOW_PROBABILITY or more.

    Raises:
        ValueError: a configured `traffic.slots_per_tick` is too small.
    """
    peak = float(expected.max())
    needed = math.ceil(pdtrik(1 - OVERFLOW_PROBABILITY, peak))
    chosen = config.traffic.slots_per_tick
    if chosen is None:
        return -(-needed // 64) * 64
    if pdtrc(chosen, peak) >= OVERFLOW_PROBABILITY:
        raise ValueError(
            f"traffic.slots_per_tick = {chosen} is too small for a peak of {peak:.1f} expected "
            f"impressions per tick: it must be >= {needed}"
        )
    return chosen


def draw_arrivals(seed: int, expected: FloatArray, num_slots: int) -> IntArray:
    """Number of impressions of each tick (T,): Poisson by inverse cdf, counter-based.

    Raises:
        ValueError: a tick overflows its slots (probability below OVERFLOW_PROBABILITY per tick).
    """
    u = uniforms(seed, Stream.ARRIVALS, np.arange(expected.size))[:, 0]
    counts = np.ceil(np.maximum(pdtrik(u, expected), 0.0)).astype(np.int64)
    counts[u <= np.exp(-expected)] = 0
    if counts.max(initial=0) > num_slots:
        raise ValueError(
            f"a tick of {counts.max()} impressions overflows traffic.slots_per_tick = {num_slots}"
        )
    return counts
