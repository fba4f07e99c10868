"""Synthesis on small real networks: reproducible, in range, closer than noise, and leaving no trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.bn_statistics import statistics_distance
from ptq.calibration.objectives import Batch, BatchNormStatistics, Label, Term
from ptq.calibration.synthesis import gaussian_noise, synthesize
from ptq.calibration.synthesis_config import SYNTHESIS_METHODS, SynthesisConfig, synthesis_preset
from ptq.errors import InputError, ModelError
from ptq.models.model import Model, as_model
from tests.helpers.synchronizations import Synchronizations

QUICK = SynthesisConfig(count=6, batch=4, iterations=4, half_resolution=0.5)


def teacher(seed: int = 0, classes: int = 4, size: int = 16, width: int = 8) -> Model:
    """A small network whose BNs remember blurred noise: colors and textures that white noise lacks."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )
    blurred = nn.functional.interpolate(torch.randn(64, 3, 4, 4), (size, size), mode="bicubic")
    for _ in range(40):
        net(blurred)
    return as_model(net, size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), name="small")


class Counter:
    """Remembers what a stage reported."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.losses: list[float] = []
        self.steps = 0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator["Counter"]:
        self.stages.append((name, total))
        yield self

    def advance(self, n: int = 1, **figures: float) -> None:
        self.losses += figures.values()
        self.steps += n == 1  # work found done is told of at once


def distance(model: Model, images: Tensor) -> float:
    return statistics_distance(model.module, model.preprocess.normalize(images))


def test_images_labels_and_provenance() -> None:
    progress = Counter()
    model = teacher()
    made = synthesize([model], QUICK, progress=progress)
    assert made.images.shape == (6, 3, 16, 16) and made.images.dtype == torch.uint8
    assert sorted(made.labels.bincount(minlength=4).tolist()) == [1, 1, 2, 2]
    assert made.provenance["source"] == "mixmix"
    assert made.provenance["teachers"] == [{"name": "small", "weights": model.weights_source, "sha256": model.sha256}]
    assert made.provenance["settings"]["seed"] == 0
    assert progress.stages == [("synthesize", 8)] and progress.steps == 8
    assert len(progress.losses) == 2  # at the end of each batch


def test_same_seed_same_images_whatever_the_global_generator_says() -> None:
    model = teacher()
    torch.manual_seed(1)
    first = synthesize([model], QUICK)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = synthesize([model], QUICK)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert first.provenance == second.provenance
    other = synthesize([model], replace(QUICK, seed=1))
    assert not torch.equal(first.images, other.images)


def test_the_callers_models_come_out_untouched() -> None:
    model = teacher()
    module = model.module.train()
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if index % 2 == 0 else None
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.inference_mode():  # nor does the caller's mode matter
        synthesize([model], QUICK)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(m.training and not m._forward_pre_hooks for m in module.modules())
    for index, parameter in enumerate(module.parameters()):
        assert parameter.requires_grad == (index % 2 == 0)
        assert (parameter.grad is None) == (index % 2 == 1)
        assert parameter.grad is None or bool((parameter.grad == 1).all())


def test_images_match_the_statistics_better_than_noise() -> None:
    model = teacher()
    config = SynthesisConfig(count=32, batch=32, iterations=80, data_mixing=0.0, terms=QUICK.terms[:2])
    made = distance(model, synthesize([model], config).floats())
    assert made < 0.3 * distance(model, gaussian_noise(model, 32).floats())


def test_labels_are_what_the_teacher_sees() -> None:
    model = teacher()
    made = synthesize([model], SynthesisConfig(count=16, batch=16, iterations=80, terms=(*QUICK.terms[:2], Label(1.0))))
    with torch.no_grad():
        seen = model.module(model.preprocess.normalize(made.floats())).argmax(1)
    assert float((seen == made.labels).float().mean()) > 0.6  # by chance, 0.25


def test_teachers_of_other_sizes_and_classes_mix() -> None:
    teachers = [teacher(0), teacher(1, classes=7, size=24), teacher(2, width=4)]
    progress = Counter()
    mixed = synthesize(teachers, replace(QUICK, iterations=90, count=32, batch=16), progress=progress)
    assert mixed.images.shape == (32, 3, 16, 16)
    assert len(mixed.provenance["teachers"]) == 3
    assert progress.steps == 2 * 90  # several take no more steps than one teacher
    resized = nn.functional.interpolate(mixed.floats(), (24, 24), mode="bilinear")
    noise = gaussian_noise(teachers[1], 32).floats()
    assert distance(teachers[1], resized) < distance(teachers[1], noise)


def test_a_classifier_tied_to_its_resolution_is_shown_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 256, 3))
    model = as_model(net, size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert synthesize([model], QUICK).images.shape == (6, 3, 16, 16)


def test_a_classifier_with_a_view_behind_a_convolution_makes_the_images_of_one_with_a_flatten() -> None:
    class Viewed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[1](self[0](x))
            scores: Tensor = self[3](x.view(x.size(0), -1))
            return scores

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 256, 3)
    one, other = (as_model(kind(*layers), size=16, mean=(0.5,) * 3, std=(0.5,) * 3) for kind in (nn.Sequential, Viewed))
    images, same = (synthesize([model], QUICK).images.float() for model in (one, other))
    assert float((images - same).abs().mean()) < 1  # of 255: sums run in another order


def test_noise_has_the_training_pixels_mean_and_is_reproducible() -> None:
    model = teacher()
    noise = gaussian_noise(model, 16, seed=3)
    assert noise.images.shape == (16, 3, 16, 16) and bool((noise.labels == -1).all())
    assert float(noise.floats().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(noise.images, gaussian_noise(model, 16, seed=3).images)


class Stop(Exception):
    """What a user's Ctrl-C does in the middle."""


class Interrupt(Counter):
    """Stops after some steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def advance(self, n: int = 1, **figures: float) -> None:
        super().advance(n, **figures)
        if self.steps == self.after:
            raise Stop


def test_an_interrupted_synthesis_continues_and_ends_the_same(tmp_path: Path) -> None:
    model, config = teacher(), replace(QUICK, count=12)  # three batches of four steps
    undisturbed = synthesize([model], config)
    with pytest.raises(Stop):
        synthesize([model], config, folder=tmp_path, progress=Interrupt(after=6))
    assert [p.name for p in tmp_path.iterdir()] == ["batch-0000.safetensors"]
    progress = Counter()
    continued = synthesize([model], config, folder=tmp_path, progress=progress)
    assert progress.steps == 8  # the first batch was not made again
    assert torch.equal(continued.images, undisturbed.images)
    assert continued.provenance == undisturbed.provenance
    other = synthesize([model], replace(config, seed=1), folder=tmp_path)
    assert not torch.equal(other.images, undisturbed.images)


@pytest.mark.parametrize("method", SYNTHESIS_METHODS)
def test_every_method_comes_closer_to_the_statistics_than_noise(method: str) -> None:
    model = teacher()
    config = synthesis_preset("fast", model.preprocess, method, count=32, batch=32, iterations=100)
    made = synthesize([model], config)
    assert made.provenance["source"] == method
    assert distance(model, made.floats()) < 0.6 * distance(model, gaussian_noise(model, 32).floats())


def test_teachers_share_the_work_in_three_ways() -> None:
    teachers = [teacher(0), teacher(1)]
    made = {how: synthesize(teachers, replace(QUICK, feature_mixing=how)).images for how in ("halves", "turns", "sum")}
    assert len({images.numpy().tobytes() for images in made.values()}) == 3
    for how in ("halves", "turns", "sum"):  # all the same to one teacher alone
        one = synthesize(teachers[:1], replace(QUICK, feature_mixing=how)).images
        assert torch.equal(one[:3], made["halves"][:3])


def test_the_first_teacher_makes_half_of_the_images_and_the_others_the_rest() -> None:
    first, others = [teacher(0)], [teacher(1), teacher(2)]
    made = synthesize(first + others, QUICK).images
    assert torch.equal(made[:3], synthesize(first, QUICK).images[:3])
    assert torch.equal(made[3:], synthesize(others, replace(QUICK, feature_mixing="turns")).images[3:])


def test_images_for_a_network_that_takes_no_part() -> None:
    preprocess = replace(teacher().preprocess, size=(20, 12))
    made = synthesize([teacher()], QUICK, preprocess=preprocess)
    assert made.images.shape == (6, 3, 20, 12)


def test_errors_name_what_to_do() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    vit = as_model(bare, size=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="vit")
    with pytest.raises(ModelError, match="vit"):
        synthesize([teacher(), vit], QUICK)
    with pytest.raises(InputError):
        synthesize([], QUICK)


@dataclass(frozen=True)
class Dark(Term):
    """A user's own term: images are black."""

    def loss(self, batch: Batch) -> Tensor:
        return batch.images.mean()


def test_a_user_s_own_term_takes_part_beside_the_others_and_in_their_place() -> None:
    model = teacher()
    plain = synthesize([model], QUICK)
    darker = synthesize([model], replace(QUICK, terms=(*QUICK.terms, Dark(10.0))))
    darkest = synthesize([model], replace(QUICK, iterations=40, terms=(Dark(),)))
    assert float(plain.floats().mean()) > float(darker.floats().mean()) > float(darkest.floats().mean())
    assert int(darkest.images.max()) == 0
    assert darker.provenance["settings"]["terms"][-1] == {"term": "Dark", "weight": 10.0}


def test_batches_are_told_apart_by_the_terms_that_made_them(tmp_path: Path) -> None:
    model = teacher()
    synthesize([model], QUICK, folder=tmp_path)
    progress = Counter()
    synthesize([model], replace(QUICK, terms=(BatchNormStatistics(2.0),)), folder=tmp_path, progress=progress)
    assert progress.steps == 8  # all were made again


def test_steps_do_not_wait_for_the_host() -> None:
    counts = []
    for iterations in (5, 15):
        with Synchronizations() as seen:
            synthesize([teacher()], SynthesisConfig(count=4, batch=4, iterations=iterations))
        counts.append(seen.count)
    assert counts[1] - counts[0] == 10  # Adam counts its steps on the host
