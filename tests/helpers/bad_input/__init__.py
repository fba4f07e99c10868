"""Mistakes that users make, each with what they are told: the tables that tests and `benchmarks.bad_input` go through."""

from tests.helpers.bad_input.data import DATA
from tests.helpers.bad_input.distillation import DISTILLATION
from tests.helpers.bad_input.models import MODELS
from tests.helpers.bad_input.options import OPTIONS
from tests.helpers.bad_input.runs import RUNS
from tests.helpers.bad_input.weights import WEIGHTS

__all__ = ["CASES"]

CASES = (*OPTIONS, *MODELS, *WEIGHTS, *DATA, *RUNS, *DISTILLATION)
