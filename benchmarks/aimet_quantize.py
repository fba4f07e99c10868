"""A torchvision network quantized by AIMET, in an environment of its own; called by peers.py.

    python aimet_quantize.py NETWORK WEIGHTS IMAGES.npz LOGITS.npy --method adaround --bits 4 --act-bits 4

Needs aimet-torch 2.42 and torchvision. IMAGES.npz has `images`, normalized, to calibrate with, and `test`, those whose logits are written.
Cross-layer equalization has ReLU6 replaced by ReLU before, as its authors do. Widths are given as ptq gives them: the first and the last layer, what
they read and what the first writes have 8 bits, and the logits are float.
Prints one line of JSON: versions, seconds, how many quantizers have which width.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

EDGE = 8  # bits of the first and the last layer
BATCH = 32


def main() -> None:
    """Quantize as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--method", choices=("plain", "adaround"), default="plain")
    parser.add_argument("--cle", action="store_true")
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--act-bits", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=10000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    found = np.load(options.images)
    batches = _Batches(torch.from_numpy(found["images"]).split(BATCH))
    model = getattr(torchvision.models, options.network)()
    model.load_state_dict(torch.load(options.weights, weights_only=True))
    started = time.perf_counter()
    sim = _quantized(model.eval(), batches, options)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        logits = torch.cat([sim.model(part) for part in torch.from_numpy(found["test"]).split(BATCH)])
    np.save(options.logits, logits.numpy())
    widths = {kind: dict(Counter(q.bitwidth for q in quantizers)) for kind, quantizers in _quantizers(sim).items()}
    about = {"aimet": version("aimet-torch"), "torch": torch.__version__}
    print(json.dumps({"seconds": round(seconds, 1), "widths": widths, "versions": about}), flush=True)


class _Batches(list[torch.Tensor]):
    """AIMET asks its loader for this, too."""

    batch_size = BATCH


def _quantized(model: Any, batches: _Batches, options: argparse.Namespace) -> Any:
    from aimet_torch import QuantizationSimModel
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_torch.cross_layer_equalization import equalize_model
    from aimet_torch.model_preparer import prepare_model

    scheme, config = QuantScheme.post_training_tf_enhanced, get_path_for_per_channel_config()
    example = batches[0][:1]
    if options.cle:  # which AIMET says cannot scale through a ReLU6; DFQ (Nagel et al., ICCV 2019) takes it out, too
        for path, module in list(model.named_modules()):
            if isinstance(module, torch.nn.ReLU6):
                model.set_submodule(path, torch.nn.ReLU())
    model = prepare_model(model)
    if options.cle:
        equalize_model(model, tuple(example.shape))  # which folds BatchNorms first
    else:
        fold_all_batch_norms(model, tuple(example.shape))
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    ends = [name for name, m in model.named_modules() if m in (layers[0], layers[-1])]
    with tempfile.TemporaryDirectory() as folder:
        if options.method == "adaround":
            parameters = AdaroundParameters(
                data_loader=batches,
                num_batches=len(batches),
                default_num_iterations=options.iterations,
                forward_fn=lambda m, x: m(x),
            )
            model = Adaround.apply_adaround(
                model,
                example,
                parameters,
                path=folder,
                filename_prefix="weights",
                default_param_bw=options.bits,
                param_bw_override_list=[(layers[0], EDGE), (layers[-1], EDGE)],
                default_quant_scheme=scheme,
                default_config_file=config,
            )
        sim = QuantizationSimModel(
            model,
            dummy_input=example,
            quant_scheme=scheme,
            default_output_bw=options.act_bits,
            default_param_bw=options.bits,
            config_file=config,
        )
        _give_the_ends_eight_bits(sim, ends)
        if options.method == "adaround":
            sim.set_and_freeze_param_encodings(str(next(Path(folder).glob("*.encodings"))))

    def calibrate(quantized: Any) -> None:
        with torch.no_grad():
            for batch in batches:
                quantized(batch)

    sim.compute_encodings(calibrate)
    return sim


def _give_the_ends_eight_bits(sim: Any, ends: list[str]) -> None:
    modules = {n: m for n, m in sim.model.named_modules() if hasattr(m, "param_quantizers")}
    for name in ends:
        modules[name].param_quantizers["weight"].bitwidth = EDGE
    order = list(modules.values())
    first, last = (order.index(modules[name]) for name in ends)
    for index, module in enumerate(order):
        if index == last:
            module.output_quantizers[0] = None
        for quantizer in module.input_quantizers:
            if quantizer is not None:
                quantizer.bitwidth = EDGE  # of the image: nothing else has one
        # The first layer and its activation, and what stands between the last layer and the last of what 4 bits would read.
        if index in (first, first + 1) or last - index in (1, 2):
            for quantizer in module.output_quantizers:
                if quantizer is not None:
                    quantizer.bitwidth = EDGE


def _quantizers(sim: Any) -> dict[str, list[Any]]:
    modules = [m for m in sim.model.modules() if hasattr(m, "param_quantizers")]
    return {
        "weights": [m.param_quantizers["weight"] for m in modules if "weight" in m.param_quantizers],
        "activations": [q for m in modules for q in (*m.input_quantizers, *m.output_quantizers) if q is not None],
    }


if __name__ == "__main__":
    main()
