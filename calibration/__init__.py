"""Calibration images, from nothing but networks, and what is measured on them."""

from ptq.calibration.bn_stats import statistics_distance
from ptq.calibration.calibrate import calibrate
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.synthesis import (
    SynthesisConfig,
    gaussian_noise,
    synthesis_preset,
    synthesize,
)

__all__ = [
    "CalibrationSet",
    "SynthesisConfig",
    "calibrate",
    "gaussian_noise",
    "statistics_distance",
    "synthesis_preset",
    "synthesize",
]
