from .histograms import worst_layers as worst_layers
from .sensitivity import Sensitivity as Sensitivity, measure_sensitivity as measure_sensitivity
