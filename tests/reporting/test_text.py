"""Facts about images in words."""

from ptq.reporting.text import image_lines, memory_lines, threads_text

QUALITY = {"statistics": {"a": 0.0512, "b": 0.2}, "label_accuracy": None, "diversity": 12.34}


def test_lines_say_what_is_known_and_nothing_else() -> None:
    assert image_lines({"count": 2, "source": "real"}) == ["2 images: real"]
    facts = {"count": 9, "source": "mixmix", "teachers": [{"name": "a"}, {"name": "b"}]}
    assert image_lines(facts) == ["9 images: mixmix from a, b"]
    assert image_lines({**facts, "quality": QUALITY})[1:] == [
        "distance from the BatchNorm statistics: a 0.051, b 0.200 (0 is the training data)",
        "they vary as much as 12.3 images that have nothing in common",
    ]
    judged = {**QUALITY, "label_accuracy": 0.874, "verifier": "c"}
    assert image_lines({**facts, "quality": judged})[2] == "c sees the label in 87 % of them"


def test_peaks_of_memory_are_told_as_far_as_they_are_known() -> None:
    report: dict[str, object] = {"peak_rss_bytes": 3 << 29}
    assert memory_lines({}) == []
    assert memory_lines(report) == ["peak memory: 1.50 GiB"]
    report["peak_activations_bytes"] = {"memory": 0, "disk": 1 << 20}
    assert memory_lines(report)[1:] == ["peak of cached activations: 0 B in memory, 1.00 MiB on disk"]


def test_one_thread_is_no_threads() -> None:
    assert [threads_text(n) for n in (1, 2, None)] == ["1 thread", "2 threads", ""]
