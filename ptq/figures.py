"""What is known about calibration images, in words: for reports and for the terminal."""

from collections.abc import Mapping
from typing import Any

__all__ = ["image_lines"]


def image_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines about a set of images, from its provenance and "count".

    Example:
        >>> image_lines({"count": 64, "source": "noise"})
        ['64 images: noise']
    """
    teachers = ", ".join(teacher["name"] for teacher in facts.get("teachers", ()))
    lines = [
        f"{facts['count']} images: {facts['source']}" + (f" from {teachers}" if teachers else "")
    ]
    quality = facts.get("quality")
    if quality is None:
        return lines
    distances = ", ".join(f"{name} {value:.3f}" for name, value in quality["statistics"].items())
    lines.append(f"distance from the BatchNorm statistics: {distances} (0 is the training data)")
    if quality["label_accuracy"] is not None:
        share = 100 * quality["label_accuracy"]
        lines.append(f"{quality['verifier']} sees the label in {share:.0f} % of them")
    lines.append(f"as different from each other as {quality['diversity']:.1f} images")
    return lines
