"""Which widths are worth anything: the largest of each container, below the cap, where nothing is fixed."""

from ptq.allocation.widths import possible_widths, saved_bytes
from ptq.export.sizes import FileSizes
from ptq.quantization.spec import QuantPlan, QuantSpec

SIZES = FileSizes(10_000, {name: {2: 700, 4: 400} for name in ("wide", "fixed", "capped")})


def plan(**bits: int) -> QuantPlan:
    return QuantPlan({name: QuantSpec(count, True, True, 0) for name, count in bits.items()}, {})


def test_a_width_is_the_largest_of_its_container() -> None:
    found = possible_widths(plan(wide=8, small=8, fixed=6, capped=3), SIZES, fixed=["fixed"])
    assert found == {"wide": (2, 4, 8), "small": (8,), "fixed": (6,), "capped": (2, 3)}


def test_a_width_saves_what_its_container_does() -> None:
    assert [saved_bytes(SIZES, "wide", bits) for bits in (2, 3, 4, 5, 8)] == [700, 400, 400, 0, 0]
    assert saved_bytes(SIZES, "small", 2) == 0
