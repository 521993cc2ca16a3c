"""Verdicts: figures in, a :class:`~baton.domain.GateResult` out. Pure: no clock, no file, no connection.

Each result has the figure that it was judged by, the limit, the sample sizes and one sentence for a person. A gate
without enough evidence holds: it neither passes nor fails. Limits are given by the caller, and have no defaults here.
"""

from baton.judge.invariance import judge_invariance as judge_invariance
from baton.judge.live import judge_live as judge_live
from baton.judge.memory import judge_memory as judge_memory
from baton.judge.ndcg import mean_ndcg_at_10 as mean_ndcg_at_10, ndcg_at_10 as ndcg_at_10
from baton.judge.output import judge_output as judge_output
from baton.judge.timing import judge_latency as judge_latency, judge_warmup as judge_warmup
