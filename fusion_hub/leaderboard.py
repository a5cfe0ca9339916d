"""`fusion_hub.leaderboard` is `fusion_hub.evaluation.leaderboard`: the name has been public since version 0.1."""

from fusion_hub.evaluation.leaderboard import *  # noqa: F403
from fusion_hub.evaluation.leaderboard import __all__ as __all__
