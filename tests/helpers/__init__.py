"""What tests share: networks, random networks, readers to damage files for, mistakes, a report."""

from pathlib import Path

__all__ = ["CHECKOUT"]

CHECKOUT = Path(__file__).parents[2]
