"""The typed report and its JSON: all that goes in comes out, and nothing else gets in."""

import json
import math
from typing import Any

import pytest

from ptq.errors import InputError
from ptq.reporting.facts import ImageFacts
from ptq.reporting.report import VERSION, Report
from tests.helpers.reports import check, made_up


def test_json_holds_everything() -> None:
    report = made_up(blocks=[{**made_up().to_json()["blocks"][0], "sqnr": math.inf}], exact=None)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_json_keeps_its_keys() -> None:
    data = made_up(gates=[check("one", "it is wrong.")]).to_json()
    assert list(data)[:2] == ["version", "model"] and data["version"] == VERSION
    for key in ("top1", "agreement", "latency_ms", "size_bytes", "seconds", "blocks", "validated_on", "images"):
        assert key in data
    assert data["failed"] == ["it is wrong."] and [one["passed"] for one in data["gates"]] == [False]
    assert not {"validation", "checks"} & data.keys()
    assert data["images"]["seed"] == 7  # of their provenance, all is kept


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"seed": "7"}, "seed"),
        ({"top1": {"onnx": None}}, "top1"),
        ({"gates": [{"name": "one"}]}, "checks"),
        ({"blocks": [{"name": "stem"}]}, "blocks"),
        ({"images": {"count": 3, "teachers": "other"}}, "teachers"),
        ({"images": []}, "images"),
        ({"worst_layers": [None]}, "worst_layers"),
        ({"settings__quantization__bits": "4"}, "settings"),
        ({"settings__quantization__bits": 99}, "bits"),
        ({"version": VERSION + 1}, "version"),
        ({"version": None}, "version"),
    ],
)
def test_what_is_of_another_type_is_refused_by_name(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError, match=place):
        made_up(**change)


@pytest.mark.parametrize("key", ["model", "top1", "gates", "seconds", "blocks", "images", "settings", "machine"])
def test_nothing_may_be_missing(key: str) -> None:
    data = made_up().to_json()
    del data[key]
    with pytest.raises(InputError):
        Report.from_json(data)


def test_images_may_say_little_of_themselves() -> None:
    facts = ImageFacts.from_json({"count": 3, "whatever": [1]})
    assert (facts.count, facts.quality, facts.teachers) == (3, None, ())
    assert facts.to_json() == {"count": 3, "names": {}, "whatever": [1]}
    with pytest.raises(InputError):
        ImageFacts.from_json({"count": 3, "source": 1})
