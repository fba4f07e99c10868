"""report.html: whole without anything else, safe whatever things are called, honest about what is not known."""

import importlib.util
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ptq
from ptq.calibration import CalibrationSet
from ptq.errors import MachineError
from ptq.export.results import Check
from ptq.reporting.facts import Teacher
from ptq.reporting.html.page import page, refresh, write_html_report
from ptq.reporting.report_files import write_report
from tests.helpers.pages import Page
from tests.helpers.reports import check, histogram, made_up

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.test/x onerror=alert(1)>&amp;{{ 7 * 7 }}$x$"


def with_images(folder: Path, labels: list[int], size: int = 8) -> Path:
    pixels = torch.randint(0, 256, (len(labels), 3, size, size)).to(torch.uint8)
    images = CalibrationSet.from_pixels(pixels, torch.tensor(labels))
    images.save(folder / "images.safetensors")
    return folder


def test_figures_images_and_charts_are_on_the_page(tmp_path: Path) -> None:
    shown = Page(page(made_up(), with_images(tmp_path, [3, 7, -1])))
    for figure in ("87.75", "88.25", "−0.50", "4.50", "2.7×", "6.7×", "12.3", "18.9", "tabby", "class 7"):
        assert figure in shown.text, figure
    assert len(shown.of("img")) == 3
    assert len(shown.of("svg")) == 1 + 2 + 1  # a block that learned, a layer with its input, one without


def test_a_metric_of_the_users_own_is_on_the_page(tmp_path: Path) -> None:
    shown = Page(page(made_up(metrics={"mIoU": {"float": 0.71236, "simulated": 0.70918, "onnx": 0.70918}}), tmp_path))
    assert shown.text.count("0.7092") == 3 and shown.text.count("0.7124") == 2  # on its card, and in the table


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = page(made_up(), with_images(tmp_path, [0] * 40, 100))
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
    plain = made_up()
    report = replace(
        plain,
        model=replace(plain.model, name=HOSTILE, weights=HOSTILE),
        images=replace(plain.images, source=HOSTILE, teachers=(Teacher(HOSTILE),), names={"0": HOSTILE}),
        validation=replace(plain.validation, checks=(Check(HOSTILE, HOSTILE, HOSTILE),)),
        notes=(HOSTILE,),
        command=HOSTILE,
        seconds={HOSTILE: 1.0},
        blocks=tuple(replace(block, name=HOSTILE) for block in plain.blocks),
        worst_layers=tuple(replace(layer, name=HOSTILE) for layer in plain.worst_layers),
        versions={HOSTILE: HOSTILE},
    )
    folder = with_images(tmp_path, [0])
    shown, harmless = Page(page(report, folder)), Page(page(plain, folder))
    assert shown.text.count(HOSTILE) >= 12
    assert not {"script"} & dict(shown.elements).keys()
    assert len(shown.of("img")) == len(harmless.of("img"))
    assert not any("onerror" in attributes for _, attributes in shown.elements)


def test_it_can_be_read_aloud(tmp_path: Path) -> None:
    shown = Page(page(made_up(), with_images(tmp_path, [3, -1])))
    assert shown.of("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in shown.of("img"))
    drawings = [a for _, a in shown.elements if a.get("class") == "plot"]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert len(drawings) == len(shown.of("svg"))
    assert all("scope" in head for head in shown.of("th"))
    assert len(shown.of("caption")) == len(shown.of("table"))
    ids = Counter(a["id"] for _, a in shown.elements if "id" in a)
    assert ids.most_common(1)[0][1] == 1
    assert all(a["aria-labelledby"] in ids for a in shown.of("section"))
    assert all(a["href"].removeprefix("#") in ids for a in shown.of("a"))
    assert len(shown.of("a")) == 8
    sizes = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
    assert sizes[0] == 1 and sizes.count(1) == 1


def test_light_dark_and_narrow_screens() -> None:
    text = page(made_up())
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", text))
    assert all(c == "none" or c.startswith("var(--") for c in colors), colors
    known = set(re.findall(r"--([a-z-]+):", text))
    assert set(re.findall(r"var\(--([a-z-]+)", text)) <= known


def test_what_is_not_known_is_left_out() -> None:
    bare = made_up(
        top1={}, agreement={}, latency_ms={}, size_bytes={}, seconds={}, blocks=[], worst_layers=[], notes=[]
    )
    shown = Page(page(bare))
    assert "tinynet" in shown.text and not shown.of("img") and not shown.of("svg")
    assert {"blocks", "losses", "layers"} & {a.get("id", "") for _, a in shown.elements} == set()


def test_without_labels_agreement_stands_at_the_top() -> None:
    shown = Page(page(made_up(top1={}, validated_on=64)))
    assert "97.50" in shown.text.split("What next")[0] and "64 images without labels" in shown.text
    assert "--data DIR" in shown.text
    assert "top-1" not in shown.text  # a column of nothing


def test_a_failed_check_is_said_at_the_top() -> None:
    text = page(made_up(gates=[check("first"), check("second", "the file is slow."), check("third")]))
    assert text.index("1 of 3 checks") < text.index("the file is slow.") < text.index("<section")
    assert Counter(re.findall(r'"mark (\w+)"', text)) == {"passed": 2, "failed": 1}


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_figures_that_are_no_numbers_do_no_harm(odd: float) -> None:
    report = made_up()
    first, block = report.blocks
    blocks = (first, replace(block, sqnr=odd, sqnr_nearest=odd, losses=((odd, 1.0), (odd,))))
    layers = tuple(replace(layer, sqnr=odd) for layer in report.worst_layers)
    text = page(replace(report, blocks=blocks, worst_layers=layers))
    shares = re.findall(r"--(?:from|to|share): ([^%]+)%", text)
    assert shares and all(0 <= float(share) <= 100 for share in shares)


@pytest.mark.parametrize("odd", [math.inf, math.nan, 1e308])
def test_histograms_that_cannot_be_drawn_are_left_out(odd: float) -> None:
    report = made_up()
    layers = tuple(replace(layer, weight=histogram(low=odd)) for layer in report.worst_layers)
    assert len(Page(page(replace(report, worst_layers=layers))).of("svg")) == 1 + 1  # losses, and the input


def test_made_anew_it_is_the_same(tmp_path: Path) -> None:
    write_report(made_up(), with_images(tmp_path, [1]))
    path = write_html_report(tmp_path)
    before = path.read_bytes()
    assert ptq.write_html_report(str(tmp_path)) == path == tmp_path / "report.html"
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".ptq-*"))


@pytest.mark.parametrize("damage", ["absent", "cut short"])
def test_images_that_cannot_be_read_are_left_out(damage: str, tmp_path: Path) -> None:
    path = with_images(tmp_path, [1]) / "images.safetensors"
    path.unlink() if damage == "absent" else path.write_bytes(path.read_bytes()[:100])
    assert not Page(page(made_up(), tmp_path)).of("img")


def test_without_the_extra_it_is_one_message_and_no_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(made_up(), tmp_path)
    assert refresh(tmp_path) == tmp_path / "report.html"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    with pytest.raises(MachineError, match=r"ptq\[report\]"):
        write_html_report(tmp_path)
    assert refresh(tmp_path) is None and not (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "report.json").read_text())
