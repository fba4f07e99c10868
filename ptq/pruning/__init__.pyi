from .channel_map import ChannelMap as ChannelMap, Channels as Channels
from .channels import find_channels as find_channels
from .config import PruneConfig as PruneConfig
from .groups import Group as Group, find_groups as find_groups
from .pruning import prune as prune
from .removal import remove as remove
from .repair import repair as repair
from .results import PrunedLayer as PrunedLayer, PruneResult as PruneResult, RepairStep as RepairStep
