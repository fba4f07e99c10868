"""The ranges that the numbers of settings have, as types that `ptq.config.nested` checks."""

from typing import Annotated, Literal

from msgspec import Meta

from ptq.config.choices import MAX_BITS, MIN_BITS

__all__ = [
    "DEVICES",
    "ActBits",
    "Below1",
    "Bits",
    "Count",
    "Device",
    "Percent",
    "Positive",
    "Rate",
    "Seed",
    "Share",
    "Side",
    "Threads",
    "Weight",
]

DEVICES = r"cpu|mps|(cuda|xpu)(:\d+)?"
Bits = Annotated[int, Meta(ge=MIN_BITS, le=MAX_BITS)]
ActBits = Bits | Literal["auto"]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Side = Annotated[int, Meta(ge=1, le=99_999)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Device = Annotated[str, Meta(pattern=f"^({DEVICES})$")]
Share = Annotated[float, Meta(ge=0, le=1)]
Below1 = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0)]
Percent = Annotated[float, Meta(gt=0, le=100)]
