from .cut import cheapest as cheapest
from .placing import Placement as Placement, place as place, placed_plan as placed_plan
