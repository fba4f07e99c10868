from .config import PruneConfig as PruneConfig
from .coupling.channel_map import ChannelMap as ChannelMap, Channels as Channels
from .coupling.channels import find_channels as find_channels
from .coupling.groups import Group as Group, find_groups as find_groups
from .pruning import prune as prune
from .removal import remove as remove
from .repair import repair as repair
from .results import (
    LatencySearch as LatencySearch,
    PrunedLayer as PrunedLayer,
    PruneResult as PruneResult,
    RepairStep as RepairStep,
)
from .selection.ranking import Ranking as Ranking, rank as rank
from .storage import load_pruned as load_pruned, save_pruned as save_pruned
