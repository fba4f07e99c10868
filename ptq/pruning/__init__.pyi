from .channel_map import ChannelMap as ChannelMap, Channels as Channels
from .channels import find_channels as find_channels
from .config import PruneConfig as PruneConfig
from .groups import Group as Group, find_groups as find_groups
from .pruning import prune as prune
from .ranking import Ranking as Ranking, rank as rank
from .removal import remove as remove
from .repair import repair as repair
from .results import (
    LatencySearch as LatencySearch,
    PrunedLayer as PrunedLayer,
    PruneResult as PruneResult,
    RepairStep as RepairStep,
)
from .storage import load_pruned as load_pruned, save_pruned as save_pruned
