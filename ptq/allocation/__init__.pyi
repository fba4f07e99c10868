from .allocate import Choices as Choices, allocate as allocate, find_choices as find_choices
from .results import (
    Allocation as Allocation,
    Attempt as Attempt,
    LayerWidths as LayerWidths,
    Point as Point,
    Tradeoffs as Tradeoffs,
    Width as Width,
)
from .smallest import Ladder as Ladder, smallest as smallest
from .solver import frontier as frontier, solve as solve
from .widths import change_widths as change_widths
