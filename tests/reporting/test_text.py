"""What pages share in words: as far as it is known."""

from ptq.reporting.facts import ImageFacts
from ptq.reporting.text import exactness_lines, figure_columns, figure_lines, figure_rows, image_lines, memory_lines
from tests.helpers.reports import made_up


def test_images_say_what_is_known_and_nothing_else() -> None:
    assert len(image_lines(ImageFacts(2, "real"))) == 1
    judged = made_up().images
    assert len(image_lines(judged)) == 4
    unjudged = made_up(images__quality={"statistics": {"a": 0.0512}, "label_accuracy": None, "diversity": 12.34}).images
    assert len(image_lines(unjudged)) == 3 and "0.051" in image_lines(unjudged)[1]


def test_only_measured_networks_are_shown() -> None:
    assert figure_columns(made_up().validation) == ("float", "simulated", "onnx", "quantize_static")
    assert figure_columns(made_up(top1={}, agreement={}, latency_ms={}).validation) == ("float", "simulated", "onnx")
    assert figure_lines(top1={}, latency_ms={"float": 20.0, "onnx": 8.0, "threads": 2}) == [
        "latency     float 20.00 ms  onnx 8.00 ms"
    ]


def test_a_metric_of_any_size_shows_the_digits_that_count() -> None:
    measured = made_up(metrics={"mIoU": {"float": 0.71236, "onnx": 0.70918}, "error": {"onnx": 1234.56}}).validation
    rows = {name: cells for name, *cells in figure_rows(measured, ("float", "onnx"))}
    assert rows["mIoU"] == ["0.7124", "0.7092"] and rows["error"] == ["", "1235"]


def test_exactness_is_told_where_it_was_compared() -> None:
    assert exactness_lines(None) == []
    apart = made_up(exact={"images": 64, "differing": 3, "largest": 0.012}).validation.exact
    (line,) = exactness_lines(apart)
    assert "3 of 64" in line and "1.2 %" in line


def test_peaks_of_memory_are_told() -> None:
    lines = memory_lines(made_up(peak_activations_bytes={"memory": 0, "disk": 1 << 20}))
    assert "3.00 GiB" in lines[0] and "0 B" in lines[1] and "1.00 MiB" in lines[1]
