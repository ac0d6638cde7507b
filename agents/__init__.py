"""Bidding agents, by name. Imports NumPy and `adsim.types` only."""

from agents.constrained import CPAPacingAgent, CPCPacingAgent, RoasPacingAgent
from agents.hindsight import HindsightAgent
from agents.optimal import ORTB1Agent, ORTB2Agent
from agents.pacing import AdaptivePacingAgent, DualPacingAgent, PIDPacingAgent
from agents.programme import RLBAgent, SSMDPAgent
from agents.shading import ShadingAgent
from agents.value import LinearAgent, MCPCAgent, ValueAgent

AGENTS: dict[str, type] = {
    "value": ValueAgent,
    "linear": LinearAgent,
    "mcpc": MCPCAgent,
    "pid": PIDPacingAgent,
    "adaptive": AdaptivePacingAgent,
    "dual": DualPacingAgent,
    "dual_cpc": CPCPacingAgent,
    "dual_cpa": CPAPacingAgent,
    "dual_roas": RoasPacingAgent,
    "shading": ShadingAgent,
    "ortb1": ORTB1Agent,
    "ortb2": ORTB2Agent,
    "ss_mdp": SSMDPAgent,
    "rlb": RLBAgent,
    "hindsight": HindsightAgent,
}
