"""Names of the numbers of a played trial, known before any is played."""

from adsim.ledger import NetValueStatement

_SCORES = ("net_roas", "pacing_rmse", "quickspend", "auctionnet_score")
_ESTIMATION = ("hindsight", "regret", "share_of_best_choice", "share_of_hindsight")
_TARGETS = ("ctr", "cvr", "refund_rate", "gmv", "net_gmv")
_GROUPS, _KINDS = ("requests", "won", "explored"), ("ctr", "cvr", "net_value")

NUMBERS: tuple[str, ...] = (
    *(*NetValueStatement._fields, *_SCORES, *_ESTIMATION),
    *("learn_seconds_per_hour", "predict_ms_per_tick", "seconds"),
    *(f"{target}_{side}" for target in _TARGETS for side in ("predicted", "observed")),
    *(f"{g}_{k}_{side}" for g in _GROUPS for k in _KINDS for side in ("estimated", "true")),
)
"""Columns of `trials` that `scenarios.run.play_campaign` and `scenarios.trial.about` measure."""
