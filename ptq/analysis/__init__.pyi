from .histograms import worst_layers as worst_layers
from .inspection import Inspection as Inspection
from .sensitivity import Sensitivity as Sensitivity, measure_sensitivity as measure_sensitivity
