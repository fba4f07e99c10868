"""Names of classes, where they are known, and only there."""

from pathlib import Path

import pytest
from torch import nn

from ptq.data.class_names import class_names, label_names
from ptq.models.model import as_model, load_model

FACTS = {"teachers": [{"name": "a", "sha256": "ab"}, {"name": "b", "sha256": "cd"}]}


def test_as_many_names_as_classes_or_none() -> None:
    assert class_names(("a", "b"), 2) == ("a", "b")
    assert class_names(("a", "b"), 3) == class_names("ab", 2) == class_names(None, 0) == ()


def test_labels_belong_to_the_first_teacher() -> None:
    classes = ("tench, Tinca tinca", "goldfish", "shark")
    assert label_names([2, 0, 0, -1, 9], classes, "ab", FACTS) == {"0": "tench", "2": "shark"}
    assert label_names([0], classes, "cd", FACTS) == {}
    assert label_names([0], classes, "ab", {"source": "folder"}) == {}
    assert label_names([0], (), "ab", FACTS) == {}


@pytest.mark.parametrize(("declared", "known"), [("('x', 'y')", ("x", "y")), ("('x',)", ())])
def test_a_file_may_name_its_classes(declared: str, known: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nPREPROCESS = dict(size=8, mean=(0,) * 3, std=(1,) * 3)\n"
        f"CLASSES = {declared}\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    assert load_model(f"{tmp_path / 'net.py'}:net").classes == known


def test_published_networks_have_names_and_changed_ones_do_not() -> None:
    assert load_model("resnet18", pretrained=False).classes[1] == "goldfish"
    assert load_model("resnet18", pretrained=False, num_classes=10).classes == ()
    assert load_model("timm:resnet10t", pretrained=False).classes[1].startswith("goldfish")


def test_a_module_of_ones_own_may_have_names() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    assert as_model(net, size=8, classes=["x", "y"]).classes == ("x", "y")
    assert as_model(net, size=8).classes == ()
