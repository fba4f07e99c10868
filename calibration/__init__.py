"""Calibration images, from nothing but networks, and what is measured on them."""

from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.batches import discard_batches
from ptq.calibration.bn_statistics import has_batch_norm, statistics_distance
from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.quality import Quality, assess, assessed
from ptq.calibration.synthesis import gaussian_noise, synthesize
from ptq.calibration.synthesis_config import RECIPES, SynthesisConfig, synthesis_preset

__all__ = [
    "RECIPES",
    "CalibrationSet",
    "Quality",
    "SynthesisConfig",
    "assess",
    "assessed",
    "calibrate",
    "discard_batches",
    "gaussian_noise",
    "has_batch_norm",
    "mixed_copies",
    "statistics_distance",
    "synthesis_preset",
    "synthesize",
]
