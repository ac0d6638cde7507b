"""Bidding agents with learned estimates, in budgeted and constrained campaigns.

Run it with `adsim bench agents`; what is compared, and how, is in `scenarios/agents_tasks.py`.
"""

from scenarios.agents_bench import compare

main = compare
