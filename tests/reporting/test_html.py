"""report.html: whole without anything else, safe whatever things are called, honest about what is not known."""

import importlib.util
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import ptq
from ptq.calibration import CalibrationSet
from ptq.errors import PtqError
from ptq.reporting.html import page, refresh, write_html_report
from ptq.reporting.report import write_report
from tests.helpers.reports import gate, histogram, made_up

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.test/x onerror=alert(1)>&amp;{{ 7 * 7 }}$x$"


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.open = "", list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:  # elements without an end
            pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def whole() -> dict[str, Any]:
    """A report with everything in it."""
    report = made_up()
    report["gates"] = [gate("first gate"), gate("second gate"), gate("third gate")]
    report["failed"] = []
    report["blocks"][1]["losses"] = [[1.0, 0.5, 0.25], [1.1, 0.9]]
    layer = {"name": "conv2", "sqnr": 12.5, "bits": 4, "input_bits": 8}
    floating = {**layer, "name": "stem", "input": None, "input_bits": None, "weight": histogram()}
    report["worst_layers"] = [{**layer, "weight": histogram(), "input": histogram()}, floating]
    return report


def with_images(folder: Path, labels: list[int], size: int = 8) -> Path:
    pixels = torch.randint(0, 256, (len(labels), 3, size, size)).to(torch.uint8)
    images = CalibrationSet.from_pixels(pixels, torch.tensor(labels))
    images.save(folder / "images.safetensors")
    return folder


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    report = whole()
    report["images"]["names"] = {"3": "tabby"}
    shown = Page(page(report, with_images(tmp_path, [3, 7, -1])))
    for text in (
        "tinynet",
        "passed all 3 gates",
        "87.75",
        "88.25",
        "−0.50 points",
        "4.50",
        "2.7× as fast",
        "0.60",
        "6.7× smaller",
        "accuracy: 0.50 points lost",
        "/model.onnx",
        "latency (ms, 2 threads)",
        "quantize --model tinynet",
        "second note",
        "12.3",
        "18.9",
        "3.00 GiB",
        "12.5 dB",
        "1.00 % clipped",
        "first gate",
        "first gate 1 of 2",
        "third gate",
        "tabby",
        "class 7",
        "version of torch",
        "machine: cpu",
    ):
        assert text in shown.text, text
    assert len(shown.of("img")) == 3 and "3 of them are shown" in shown.text  # of 64
    assert len(shown.of("svg")) == 1 + 2 + 1  # a block that learned, a layer with its input, one without


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = page(whole(), with_images(tmp_path, [0] * 40, 100))
    shown = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & dict(shown.elements).keys()
    assert len(shown.of("img")) == 32
    assert all(image["src"].startswith("data:image/") for image in shown.of("img"))
    for _, attributes in shown.elements:
        for name in ("href", "src", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?://|@import|//cdn", text)
    assert not re.search(r"url\((?!#)", text)


def test_what_things_are_called_stays_text(tmp_path: Path) -> None:
    report = whole()
    report["model"] = {"name": HOSTILE, "weights": HOSTILE}
    report["images"] |= {"source": HOSTILE, "teachers": [{"name": HOSTILE}], "names": {"0": HOSTILE}}
    report["notes"], report["command"], report["failed"] = [HOSTILE], HOSTILE, [HOSTILE]
    report["gates"] = [gate(HOSTILE, HOSTILE)]
    report["settings"]["data"] = HOSTILE
    report["seconds"] = {HOSTILE: 1.0}
    for named in (*report["blocks"], *report["worst_layers"]):
        named["name"] = HOSTILE
    text = page(report, with_images(tmp_path, [0]))
    shown, plain = Page(text), Page(page(whole(), with_images(tmp_path, [0])))
    assert shown.text.count(HOSTILE) >= 12
    assert not {"script"} & dict(shown.elements).keys()
    assert len(shown.of("img")) == len(plain.of("img"))
    assert not any("onerror" in attributes for _, attributes in shown.elements)


def test_it_can_be_read_aloud(tmp_path: Path) -> None:
    shown = Page(page(whole(), with_images(tmp_path, [3, -1])))
    assert shown.of("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in shown.of("img"))
    drawings = [a for _, a in shown.elements if a.get("class") == "plot"]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert len(drawings) == len(shown.of("svg"))
    assert all("scope" in head for head in shown.of("th"))
    assert len(shown.of("caption")) == len(shown.of("table"))
    ids = Counter(a["id"] for _, a in shown.elements if "id" in a)
    assert ids.most_common(1)[0][1] == 1
    assert all(a["aria-labeledby"] in ids for a in shown.of("section"))
    assert all(a["href"].removeprefix("#") in ids for a in shown.of("a"))
    assert len(shown.of("a")) == 8
    sizes = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
    assert sizes[0] == 1 and sizes.count(1) == 1


def test_light_dark_and_narrow_screens() -> None:
    text = page(whole())
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", text))
    assert all(c == "none" or c.startswith("var(--") for c in colors), colors
    known = set(re.findall(r"--([a-z-]+):", text))
    assert set(re.findall(r"var\(--([a-z-]+)", text)) <= known


def test_what_is_not_known_is_left_out() -> None:
    bare = made_up()
    shown = Page(page(bare))
    assert "no gate is known to have failed" in shown.text and not shown.of("img")
    assert not shown.of("svg")
    for key in ("blocks", "seconds", "notes", "peak_rss_bytes", "versions", "machine", "bits", "command"):
        bare.pop(key)
    bare |= {"top1": {}, "agreement": {}, "latency_ms": {}, "size_bytes": {}, "images": {}}
    assert "tinynet" in Page(page(bare)).text


def test_without_labels_agreement_stands_at_the_top() -> None:
    shown = Page(page(made_up() | {"top1": {}, "validated_on": 64}))
    assert "same prediction as float" in shown.text and "97.5" in shown.text
    assert "64 calibration images, without labels" in shown.text
    assert "accuracy: not measured" in shown.text and "--data DIR" in shown.text
    assert "top-1" not in shown.text  # a column of nothing


def test_a_failed_gate_is_said_at_the_top() -> None:
    report = whole()
    report["gates"][1] = gate("second gate", "the file is slow.")
    report["failed"] = ["the file is slow."]
    text = page(report)
    assert text.index("failed 1 of 3 gates") < text.index("the file is slow.") < text.index("<section")
    assert Counter(re.findall(r'"mark (\w+)"', text)) == {"passed": 2, "failed": 1}


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_figures_that_are_no_numbers_do_no_harm(odd: float) -> None:
    report = whole()
    report["blocks"][1] |= {"sqnr": odd, "sqnr_nearest": odd, "losses": [[odd, 1.0], [odd]]}
    report["worst_layers"][0]["sqnr"] = odd
    text = page(report)
    shares = re.findall(r"--(?:from|to|share): ([^%]+)%", text)
    assert shares and all(0 <= float(share) <= 100 for share in shares)


def test_made_anew_it_is_the_same(tmp_path: Path) -> None:
    write_report(whole(), with_images(tmp_path, [1]))
    path = write_html_report(tmp_path)
    before = path.read_bytes()
    assert ptq.write_html_report(str(tmp_path)) == path == tmp_path / "report.html"
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".ptq-*"))


@pytest.mark.parametrize("damage", ["absent", "cut short"])
def test_images_that_cannot_be_read_are_left_out(damage: str, tmp_path: Path) -> None:
    path = with_images(tmp_path, [1]) / "images.safetensors"
    path.unlink() if damage == "absent" else path.write_bytes(path.read_bytes()[:100])
    assert not Page(page(whole(), tmp_path)).of("img")


def test_without_the_extra_it_is_one_message_and_no_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(made_up(), tmp_path)
    assert refresh(tmp_path) == tmp_path / "report.html"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "jinja2" else find(name, *rest)
    )
    with pytest.raises(PtqError, match=r"pip install 'ptq\[report\]'"):
        write_html_report(tmp_path)
    assert refresh(tmp_path) is None and not (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "report.json").read_text())
