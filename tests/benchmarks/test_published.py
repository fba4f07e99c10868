"""Published weights: lines of text are what they are said to be, and every run is a line of the page."""

import torch

from benchmarks.published import CASES, lines_of_text, page


def test_every_second_line_of_text_is_upside_down() -> None:
    images, labels = lines_of_text((48, 192), 4, seed=1)
    assert images.shape == (4, 3, 48, 192) and labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(images, lines_of_text((48, 192), 4, seed=1)[0])
    ink = (images.float() - images[..., :1, :1]).abs().sum(1) > 0
    assert not ink[0, :, 0].any() and not ink[1, :, -1].any()  # a margin where a line begins


def test_the_page_has_a_line_for_each_run() -> None:
    row = {
        "preset": "fast",
        "validated_on": 4,
        "top1": {"float": 99.0, "onnx": 98.0},
        "outputs": {"scores": {"measure": "same prediction as float", "percent": 97.5}},
        "size_bytes": {"float": 4e6, "onnx": 1e6},
        "machine": {"cpu": "made up"},
        "versions": {},
    }
    text = "\n".join(page([row | {"case": "direction", "bits": bits} for bits in (4, 8)]))
    assert text.count(CASES["direction"].title) == 2 and "97.50 % (same prediction as float)" in text
    assert text.index("W8A8") < text.index("W4A8") and "99.00 % | 98.00 %" in text
