"""What bits may cost, in place of how many there are: the one budget that a run has."""

from typing import Any

from ptq.config.flat_options import flag
from ptq.config.settings import QuantizationSettings, Settings
from ptq.errors import InputError

__all__ = ["BUDGETS", "bit_budget", "check_budget", "run_suffix"]

BUDGETS = ("max_size", "min_agreement", "max_drop")
"""The settings of quantization that are budgets."""


def bit_budget(settings: QuantizationSettings) -> tuple[str, Any] | None:
    """Return the name of the budget and what it is; None without one.

    Raises:
        InputError: for two of them.

    Example:
        >>> bit_budget(QuantizationSettings(max_size="3MB"))
        ('max_size', '3MB')
    """
    given = [(name, value) for name in BUDGETS if (value := getattr(settings, name)) is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(flag(f'quantization.{name}') for name, _ in given)}: give one of them")
    return given[0] if given else None


def check_budget(settings: Settings) -> None:
    """Refuse two budgets, and a drop of accuracy without what measures it.

    Raises:
        InputError: for these.
    """
    budget = bit_budget(settings.quantization)
    if budget is not None and budget[0] == "max_drop" and settings.evaluation.data is None:
        raise InputError("--max-drop: give --data with labeled images, on which accuracy is measured")


def run_suffix(settings: Settings) -> str:
    """Return what a run directory is called behind the model's name: the bits or their budget, and that of channels.

    Example:
        >>> from ptq.config.flat_options import make_settings
        >>> run_suffix(make_settings("net", 4)), run_suffix(make_settings("net", min_agreement=98.0))
        ('w4a8', 'min-agreement-98')
        >>> run_suffix(make_settings("net", 8, keep="60%"))
        'w8a8-60percent'
    """
    bits, channels = settings.quantization, settings.pruning.budget
    name, value = bit_budget(bits) or ("", "")
    amount = value if isinstance(value, str) else f"{value:g}"
    suffix = f"{name.replace('_', '-')}-{amount}" if name else f"w{bits.bits}a{bits.act_bits}"
    return f"{suffix}-{channels.strip().replace('%', 'percent')}" if channels else suffix
