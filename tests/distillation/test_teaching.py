"""What several teachers say together, and who can be taught."""

import pytest
import torch
from torch import nn

import ptq
from ptq.distillation.teaching import averaged, called_alike, check_images, check_student, outputs_alike, recognized
from ptq.models.model import Model
from ptq.tasks.task import Task

CLASSES = Task({"output": "classify"}, 3)
IMAGES = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(outputs: int, size: int = 8) -> Model:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs))
    return ptq.as_model(body, size=size, mean=0.5, std=0.25, name=f"of_{outputs}")


def test_probabilities_are_averaged_at_the_temperature() -> None:
    one, other = torch.randn(5, 3), torch.randn(5, 3)
    said = averaged([one, other], CLASSES, 4.0)["output"]
    torch.testing.assert_close((said / 4).softmax(1), ((one / 4).softmax(1) + (other / 4).softmax(1)) / 2)


def test_one_teacher_says_what_it_says() -> None:
    scores = torch.randn(5, 3)
    assert averaged([scores], CLASSES, 4.0)["output"] is scores


def test_numbers_that_are_no_scores_are_averaged_as_they_are() -> None:
    one, other = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(averaged([one, other], Task({"output": "generic"}), 4.0)["output"], (one + other) / 2)


def test_a_student_needs_the_outputs_of_its_teacher_and_the_size_of_the_images() -> None:
    check_student(network(5), network(5))
    check_images(network(5), IMAGES)
    with pytest.raises(ptq.InputError):
        check_student(network(4), network(5))
    for student, images in ((network(5, 16), IMAGES), (network(5), IMAGES[:1]), (network(5), IMAGES.float())):
        with pytest.raises(ptq.InputError):
            check_images(student, images)
    assert not outputs_alike(network(5), network(4))


class Named(nn.Module):
    """A network whose outputs have names of their own, as those of files have."""

    def __init__(self, body: nn.Module, *names: str) -> None:
        super().__init__()
        self.body, self.names = body, names

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: self.body(x) for name in self.names}


def test_a_single_output_may_be_called_anything_and_several_may_not() -> None:
    body = network(5).module
    one, other, two, more = (
        ptq.as_model(Named(body, *names), size=8, mean=0.5, std=0.25)
        for names in (("a",), ("b",), ("a", "c"), ("a", "d"))
    )
    assert outputs_alike(one, other) and outputs_alike(network(5), one) and outputs_alike(two, two)
    assert not outputs_alike(two, more) and not outputs_alike(one, two)
    scores = torch.randn(5, 3)
    assert averaged([{"b": scores}], CLASSES, 4.0)["output"] is scores
    assert called_alike({"a": 1, "b": 2}, CLASSES) == {"a": 1, "b": 2}
    student, _ = ptq.distill([one, other], network(5), IMAGES, ptq.DistillConfig(epochs=2))
    assert student.num_classes == 5


def test_recognized_is_the_share_of_the_images_that_are_labeled() -> None:
    model = network(5)
    predicted = model.module(model.preprocess.normalize(IMAGES.float() / 255)).argmax(1)
    assert recognized(model, IMAGES, predicted) == 100
    labels = torch.stack([predicted[0], (predicted[1] + 1) % 5, torch.tensor(-1), torch.tensor(-1)])
    assert recognized(model, IMAGES, labels) == 50
