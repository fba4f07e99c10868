"""Published weights: lines of text are what they are said to be, and every run is a line of the page."""

import torch

from benchmarks.published import CASES, page, text


def test_text_is_turned_as_its_label_says() -> None:
    images, labels = text((48, 192), 4, (0, 2), seed=1)
    assert images.shape == (4, 3, 48, 192) and labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(images, text((48, 192), 4, (0, 2), seed=1)[0])
    ink = (images.float() - images[..., :1, :1]).abs().sum(1) > 0
    assert not ink[0, :, 0].any() and not ink[1, :, -1].any()  # a margin where a line begins


def test_pages_hold_several_lines_and_turn_to_the_left() -> None:
    (upright, turned), _ = text((192, 192), 2, (0, 1), seed=1)
    ink = [((image.float() - image[:, :1, :1]).abs().sum(0) > 0) for image in (upright, turned)]
    assert not ink[0][:, 0].any() and not ink[1][-1].any()
    starts = (ink[0].any(1).int().diff() > 0).sum()
    assert starts == 4


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
    written = "\n".join(page([row | {"case": "direction", "bits": bits} for bits in (4, 8)]))
    assert written.count(CASES["direction"].title) == 2 and "97.50 % (same prediction as float)" in written
    assert written.index("W8A8") < written.index("W4A8") and "99.00 % | 98.00 %" in written
