"""What a report says to do: the file and its accuracy are judged apart, and what is advised exists."""

import re
from dataclasses import replace
from typing import Any

import pytest

from ptq.config.flat_options import make_settings
from ptq.export.results import OWN_METRIC, PRUNED_PREDICTIONS, SAME_PREDICTIONS, SPEED
from ptq.reporting.advice import badges, lost, next_steps, remedy
from ptq.reporting.report import Report
from tests.helpers.reports import check, made_up
from tests.test_docs import options_of


def report(points: float | None = 0.5, failed: tuple[str, ...] = (), **settings: Any) -> Report:
    """A report of a network that lost so many points."""
    top1 = {} if points is None else {"float": 80.0, "onnx": 80.0 - points}
    gates = [check("sound"), *(check(f"check {i}", line) for i, line in enumerate(failed))]
    return made_up(top1=top1, gates=gates, settings=make_settings("tinynet", **{"bits": 4, **settings}).to_json())


def texts(found: Report) -> str:
    return "\n".join(f"{step.text} {step.command}" for step in next_steps(found, "runs/a b"))


@pytest.mark.parametrize(
    ("points", "state", "figure"),
    [
        (-0.2, "passed", "nothing"),
        (0.001, "passed", "nothing"),
        (1.0, "passed", "1.00"),
        (4.2, "warned", "4.20"),
        (70.0, "failed", "70.00"),
        (None, "unknown", "not measured"),
    ],
)
def test_accuracy_is_judged_by_what_was_lost(points: float | None, state: str, figure: str) -> None:
    badge = badges(report(points))[1]
    assert badge.state == state and figure in badge.text


def test_a_file_can_be_right_and_inaccurate() -> None:
    file, accuracy = badges(report(30.0))
    assert (file.state, accuracy.state) == ("passed", "failed")
    assert badges(report(0.0, failed=("wrong.",)))[0].state == "failed"


def test_a_good_file_is_to_be_used() -> None:
    text = texts(report())
    assert "runs/a b/model.onnx" in text and "48×32" in text
    assert "less 0.5, over (0.2, 0.3, 0.4)" in text
    assert "--bits 4" not in text and "--bits 4" in texts(report(bits=8))


def test_points_are_won_back_where_settings_leave_room() -> None:
    everything = texts(report(20.0, bits=2, act_bits=4, preset="fast", images="noise"))
    for advised in ("--act-bits 4", "--preset default", "--bits 4", "ptq inspect 'runs/a b'", "--images noise"):
        assert advised in everything
    assert "--images universal" in texts(report(20.0, images="universal"))
    assert "--images DIR" in texts(report(5.0, bits=8)) and "inspect" not in texts(report(5.0, bits=8))
    assert all(next_steps(report(5.0, bits=bits), "a") for bits in range(2, 9))


def test_without_labels_they_are_asked_for_first() -> None:
    first, *_ = next_steps(report(None), "a")
    assert first.command == "ptq validate a --data DIR" and lost(report(None)) is None


def test_what_gives_no_classes_is_measured_by_a_metric_and_judged_by_it() -> None:
    outputs = [{"name": "mask", "kind": "dense", "measure": "the same", "agreement": {"onnx": 99.0}}]
    unmeasured = made_up(top1={}, outputs=outputs)
    assert next_steps(unmeasured, "a")[0].command == "ptq validate a --metric FILE.py:function"
    measured = made_up(top1={}, outputs=outputs, metrics={"mIoU": {"float": 0.75, "onnx": 0.74}})
    assert "--metric" not in "".join(step.command for step in next_steps(measured, "a"))
    assert (badges(measured)[1].state, badges(measured)[1].text) == ("unknown", "mIoU: 0.74, float 0.75")


def test_a_failed_file_is_not_to_be_used_and_a_slow_one_measured_again() -> None:
    slow = check(f"{SPEED}the float network", "the file is slower than the float network: 2 against 1 ms.")
    assert "ptq validate" in texts(made_up(gates=[slow]))
    metric = next_steps(made_up(gates=[check(OWN_METRIC, "it raised.")]), "a")
    assert [step.command for step in metric] == ["ptq validate a --metric FILE.py:function"]
    wrong = texts(made_up(gates=[slow, check("numbers", "outputs differ."), check(SAME_PREDICTIONS, "lost.")]))
    assert "ptq validate" not in wrong and "model.onnx" not in wrong


def collapsed(same: float = 5.0, **settings: Any) -> Report:
    """A report of a network that has lost its predictions; no labels, and a file of which nothing is wrong."""
    gates = [check("sound"), check(SAME_PREDICTIONS, "it has lost too much.")]
    given = make_settings("tinynet", **{"bits": 4, **settings}).to_json()
    return made_up(top1={}, agreement__onnx=same, gates=gates, settings=given)


def test_a_network_that_lost_its_predictions_is_no_success() -> None:
    file, accuracy = badges(collapsed())
    assert (file.state, accuracy.state) == ("failed", "failed") and "5.00" in accuracy.text
    labeled = made_up(gates=[check(SAME_PREDICTIONS, "it has lost too much.")])
    assert badges(labeled)[1].state == "failed"
    first, second, *_ = next_steps(collapsed(), "runs/a b")
    assert "no success" in first.text
    assert second.command.startswith("ptq quantize --model tinynet --bits 4") and "--layer conv2=8" in second.command
    assert "--act-bits 4" in texts(collapsed(act_bits=4)) and "model.onnx" not in texts(collapsed())


@pytest.mark.parametrize(
    ("budget", "less"),
    [({"prune": "2x"}, "--prune 1.41x"), ({"keep": "60%"}, "--keep 80%"), ({"prune_to": "3ms"}, "more time")],
)
def test_a_network_that_lost_too_much_by_pruning_keeps_more(budget: dict[str, Any], less: str) -> None:
    lost_all = [check(PRUNED_PREDICTIONS, "it has lost too much.")]
    found = made_up(top1={}, gates=lost_all, settings=make_settings("tinynet", 8, **budget).to_json())
    assert less in texts(found) and badges(found)[1].state == "failed"


def test_a_layer_that_has_all_bits_is_left_in_float() -> None:
    layers = [replace(layer, bits=8) for layer in collapsed().worst_layers]
    report = replace(collapsed(bits=8), worst_layers=tuple(layers))
    assert "--layer conv2=float --layer stem=float" in texts(report)
    reduced = replace(report, settings=make_settings("tinynet", bits=8, reduce_range=True))
    few = replace(reduced, worst_layers=(replace(layers[0], bits=6), replace(layers[1], bits=7)))
    assert "--layer conv2=7" in texts(few) and "stem=" not in texts(few)


def test_the_message_says_what_to_do_first() -> None:
    said = remedy(make_settings("tinynet", bits=4, act_bits=4), collapsed().worst_layers)
    assert "--layer conv2=8" in said and "--act-bits 4" in said and "inspect" not in said
    assert remedy(make_settings("tinynet", bits=4), [])


def test_options_that_are_advised_exist() -> None:
    cases = [report(p, bits=b, act_bits=4, preset="fast", images="noise") for p in (None, 0.1, 9) for b in (2, 8)]
    cases += [report(5.0, bits=8), collapsed(), collapsed(act_bits=4)]
    named = set(re.findall(r"--[a-z-]+", "".join(map(texts, cases))))
    assert named <= options_of("quantize") | options_of("validate"), named
