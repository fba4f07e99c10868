"""Which networks pass every step: traced, cut into blocks, quantized, exported, loaded, computed right.

    python -m benchmarks.coverage                # all networks, writes results/coverage.{json,md}
    python -m benchmarks.coverage resnet18 "U-Net"             # these again; the table keeps the others
    python -m benchmarks.coverage --noise "U-Net"              # of these the column noise dB alone; needs no run

Every network has seeded random weights, and BatchNorms that have seen eight images. The question is not accuracy. It is whether each step
works, and whether onnxruntime computes what the simulation computes. Columns:

    blocks     how many; run one after the other, they equal the whole network bit for bit
    layers     convolutions and linear layers, and how many of them onnxruntime runs in float
    MACs       the share of multiply-accumulates, products of two tensors among them, that it does in float
    others     what other operators it runs in float, by kind
    sim~float  SQNR in dB of the simulated W8A8 network against the float one
    onnx~sim   SQNR in dB of onnxruntime against the simulation, on images it was not calibrated with; 200 is bit for bit.
               What float operators round otherwise becomes more in every block: the check compares step by step there
    noise dB   SQNR in dB of the float network's outputs, on the same images, when its input has noise 40 dB below it. Where
               this is low, the network itself makes much of small errors, whoever makes them
    latency    of the float network over that of the file with all in integers that can be, one thread, medians in turns; other
               jobs may run beside it
    by default the same of the file that `ptq quantize` writes: where integers are slower than float, some operators, or all,
               are left in float (`--place auto`). Empty where all in integers is faster. The check on speed is of this file
    W4A8 …     SQNR in dB of the output at W4A8 against float on the eight images that it was calibrated with, before and after
               ten iterations of reconstruction per block; and of onnxruntime against the simulation after that, on others
    result     "whole" where every step works, and every check of `ptq.validate` passes but those on predictions
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.classifiers import NETWORKS
from benchmarks.models.other_tasks import OTHER_TASKS
from benchmarks.networks import with_statistics
from benchmarks.rows import add_rows, footer, read_rows
from ptq.calibration import calibrate
from ptq.config.settings import QuantizationSettings
from ptq.errors import PtqError, reason
from ptq.export import export_qdq, ort, validate
from ptq.export.results import AS_GOOD, SAME_PREDICTIONS, SPEED, Check, Validation, failures
from ptq.graph.blocks import compose, named_inputs, split
from ptq.graph.cutting import assign_blocks
from ptq.graph.fx_helpers import LAYERS
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import Model, as_model, load_model
from ptq.placement.placing import place, placed_plan
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.reconstruction import ReconstructConfig, reconstruct
from ptq.run.planning import plan_by_images
from ptq.tasks.outputs import named
from ptq.utils.environment import environment
from ptq.utils.metrics import sqnr_db

EQUAL = 200.0  # dB; stands for bit for bit, which JSON has no number for
RUNS, FEW_RUNS = 15, 5
ITERATIONS = 10  # of every block
NOISE_DB = 40.0


def measure(name: str) -> dict[str, Any]:
    """Take one network through all steps; returns a row of the table."""
    row: dict[str, Any] = {"network": name, "ok": False, "step": "load", "error": "", **environment()}
    started = time.perf_counter()
    try:
        model, images, inputs = with_images(name)
        row["step"] = "trace"
        graph_model = prepare(model.module, model.preprocess.input_shape, task=model.task)
        row["step"] = "blocks"
        blocks = split(graph_model.module, assign_blocks(graph_model.module))
        example = graph_model.example(1)
        with torch.no_grad():
            whole = named(graph_model.module(example))
            composed = named(compose(graph_model.module, blocks)(named_inputs(graph_model.module, example)))
        row["blocks"], row["composed"] = len(blocks), all(torch.equal(composed[k], whole[k]) for k in whole)
        row["layers"] = sum(isinstance(m, LAYERS) for m in graph_model.module.modules())
        row["step"] = "place"
        plan = plan_by_images(graph_model, QuantizationSettings(8), inputs[:8])
        quantized_model = insert_quantizers(graph_model, plan)
        calibrate(quantized_model, inputs[:8], batch=4)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            row |= compared(path, row, quantized_model, inputs[8:])
            row["mb"] = round(path.stat().st_size / 1e6, 2)
            kinds = {node.name: node.op_type for node in ort.optimized(path).node}
            row["step"] = "validate"
            validated = partial(
                validate,
                preprocess=model.preprocess,
                batches=[(images[8:], None)],
                threads=1,
                runs=RUNS if name in NETWORKS else FEW_RUNS,
                baseline=False,
            )
            found = validated(path, quantized_model)
            row["float"] = len(found.float_layers)
            row["float_share"] = round(found.float_share, 1)
            others = Counter(kinds[name] for name in found.float_operators)
            row["others"] = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            checks, row["faster"] = [*found.checks], times_as_fast(found)
            if row["faster"] < 1:
                row["step"] = "place"
                path, quantized_model = placed(graph_model, plan, inputs[:8], Path(folder))
                found = validated(path, quantized_model)
                speed = [check for check in found.checks if check.name.startswith(SPEED)]
                checks = [check for check in checks if not check.name.startswith(SPEED)] + speed
                row["by_default"] = times_as_fast(found)
            if name in OTHER_TASKS:
                row["noise_db"] = noise_db(model, inputs[8:])
                row["outputs"] = counted(model.task.kinds.values())
                row["step"] = "reconstruct"
                row |= reconstructed(graph_model, inputs, Path(folder) / "narrow.onnx")
        row["ok"] = row["composed"]
        row["step"] = "done" if row["ok"] else "blocks"
        if failed := failures_but_of_predictions(checks):
            row |= {"ok": False, "step": "checks", "error": " ".join(failed)}
    except PtqError as error:
        row["error"] = str(error)
    except Exception as error:  # what a user must never see: it counts as a failure and is shown
        row["error"] = f"{type(error).__name__}: {reason(error)}"
        row["unexpected"] = True
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def times_as_fast(found: Validation) -> float:
    """How many times as fast as the float network a file is."""
    return round(found.latency_ms["float"] / found.latency_ms["onnx"], 2)


def placed(graph_model: GraphModel, plan: QuantPlan, inputs: torch.Tensor, folder: Path) -> tuple[Path, QuantizedModel]:
    """Export a network as `--place auto` has it, and return the file and the quantized model."""
    placement = place(graph_model, plan, threads=1)
    quantized_model = insert_quantizers(graph_model, placed_plan(graph_model, plan, placement.in_float))
    calibrate(quantized_model, inputs, batch=4)
    return export_qdq(quantized_model, folder / "placed.onnx"), quantized_model


def untrained(name: str) -> Model:
    """Return a network with seeded random weights, as lively as trained ones."""
    torch.manual_seed(0)
    if name in OTHER_TASKS:
        make, size, options = OTHER_TASKS[name]
        model = as_model(make(), size=size, mean=0.5, std=0.25, name="model", **options)
    else:
        model = load_model(name, pretrained=False)
    for weight in model.module.parameters():
        # A head that starts at 0 would hide everything.
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    for module in model.module.modules():
        # In a trained network no two are equal; equal ones would be merged on export. Residual branches that begin
        # at 0 stay there: all of them at once leave no digit of float32 right.
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine and module.weight.any():
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model


def with_images(name: str) -> tuple[Model, torch.Tensor, torch.Tensor]:
    """Return a network whose BatchNorms have seen images, those and a few others, and all of them as it takes them."""
    model = untrained(name)
    images = torch.rand(12, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(1))
    inputs = model.preprocess.normalize(images)
    with_statistics(model.module, inputs[:8])
    return model, images, inputs


@torch.no_grad()
def noise_db(model: Model, inputs: torch.Tensor) -> float:
    """The SQNR in dB of a float network's outputs when its input has noise; of several outputs the worst counts."""
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2))
    noise *= inputs.square().mean().sqrt() * 10 ** (-NOISE_DB / 20)
    wanted, given = named(model.module(inputs)), named(model.module(inputs + noise))
    return round(min(sqnr_db(value, given[name]) for name, value in wanted.items()), 1)


def compared(path: Path, row: dict[str, Any], quantized_model: QuantizedModel, inputs: torch.Tensor) -> dict[str, Any]:
    """Export a quantized model, and compare file, simulation and float network; of several outputs the worst counts."""
    row["step"] = "export"
    export_qdq(quantized_model, path)
    row["step"] = "load in onnxruntime"
    session = ort.session(path)
    row["step"] = "compute"
    given = [torch.from_numpy(output) for output in ort.run_all(session, inputs.numpy())]
    simulated = list(named(quantized_model.integer_forward(inputs)).values())
    with torch.no_grad():
        wanted = named(quantized_model.require_float_model().module(inputs)).values()
    return {
        "sim_float_db": round(min(map(sqnr_db, wanted, simulated)), 1),
        "onnx_sim_db": round(min(EQUAL, *map(sqnr_db, simulated, given)), 1),
    }


def reconstructed(graph_model: GraphModel, inputs: torch.Tensor, path: Path) -> dict[str, Any]:
    """Reconstruct a network at W4A8 with a few iterations, and compare its file with its simulation."""
    quantized_model = insert_quantizers(graph_model, plan_by_images(graph_model, QuantizationSettings(4), inputs[:8]))
    calibrate(quantized_model, inputs[:8], batch=4)
    wanted = named(graph_model.module(inputs[:8]))

    def decibels() -> float:
        given = named(quantized_model.fake_quantized_forward(inputs[:8]))
        return round(min(sqnr_db(value, given[name]) for name, value in wanted.items()), 1)

    with torch.no_grad():
        nearest = decibels()
    blocks = reconstruct(quantized_model, inputs[:8], ReconstructConfig(iterations=ITERATIONS, batch=2))
    with torch.no_grad():
        tuned = decibels()
    found = compared(path, {}, quantized_model, inputs[8:])
    return {
        "w4_nearest_db": nearest,
        "w4_db": tuned,
        "w4_learned": sum(block.kept == "learned" for block in blocks),
        "w4_onnx_sim_db": found["onnx_sim_db"],
    }


def counted(kinds: Iterable[str]) -> str:
    """Say of which kinds outputs are: "classify, 2 generic"."""
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in Counter(kinds).items())


def failures_but_of_predictions(checks: Iterable[Check]) -> list[str]:
    """Return what failed, but for classes: random networks name nearly the same one for everything."""
    return failures(check for check in checks if not check.name.startswith((AS_GOOD, SAME_PREDICTIONS)))


COLUMNS = {
    "network": "network",
    "blocks": "blocks",
    "layers": "layers",
    "float": "in float",
    "float_share": "MACs in float, %",
    "others": "others in float",
    "sim_float_db": "sim~float dB",
    "onnx_sim_db": "onnx~sim dB",
    "mb": "MB",
    "faster": "times as fast as float",
    "by_default": "by default",
}
MORE_COLUMNS = {
    "network": "network",
    "outputs": "outputs",
    **{key: column for key, column in COLUMNS.items() if key not in ("network", "mb")},
    "noise_db": "noise dB",
    "w4_nearest_db": "W4A8 nearest dB",
    "w4_db": "W4A8 tuned dB",
    "w4_onnx_sim_db": "W4A8 onnx~sim dB",
}


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    classifiers = [row for row in rows if row["network"] not in OTHER_TASKS]
    others = [row for row in rows if row["network"] in OTHER_TASKS]
    whole = sum(row["ok"] for row in classifiers)
    integer = sum(row.get("float") == 0 for row in classifiers)
    yield "# Coverage\n"
    yield f"{whole} of {len(classifiers)} networks pass every step (W8A8, seeded random weights). {integer} have no convolution or"
    yield "linear layer in float.\n"
    yield "Made by `python -m benchmarks.coverage`, which explains the columns.\n"
    yield from table(classifiers, COLUMNS)
    yield "\n## Other tasks\n"
    yield f"{sum(row['ok'] for row in others)} of {len(others)} networks that are no classifiers pass every step, a reconstruction at W4A8 among them.\n"
    yield from table(others, MORE_COLUMNS)
    yield footer(rows)


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> Iterator[str]:
    """Lines of a table of these columns."""
    yield f"| {' | '.join(columns.values())} | result |\n|{' --- |' * (len(columns) + 1)}"
    for row in rows:
        cells = [str(row.get(key, "")) for key in columns]
        result = "whole" if row["ok"] else f"{row['step']}: {row['error']}".strip(": ")
        yield f"| {' | '.join(cells)} | {result} |"


def main() -> None:
    """Measure the networks named on the command line, or all, and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, *OTHER_TASKS])
    parser.add_argument("--noise", action="store_true")
    options = parser.parse_args()
    measured = {row["network"]: row for row in read_rows("coverage")}
    for name in options.networks:
        if options.noise:
            model, _, inputs = with_images(name)
            row = measured[name] | {"noise_db": noise_db(model, inputs[8:])}
        else:
            row = measure(name)
        add_rows("coverage", [row], ("network",), page)
        print(json.dumps({key: value for key, value in row.items() if key not in ("versions", "machine")}), flush=True)


if __name__ == "__main__":
    main()
