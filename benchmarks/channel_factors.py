"""What a learned factor per channel between a layer and the depthwise layer that reads it is worth, on real images.

    python -m benchmarks.channel_factors DATA [--network mobilenetv2_x0_5] [--seeds 0,1,2] [--rates 0,0.003,0.01] [--iterations 150]

DATA is described in benchmarks/networks.py. W4A4, 256 real images, the default method with so many iterations. Rates are those of
the factors' logarithms; with 0 nothing is learned. Figures are those of the simulation on real numbers, on 2,500 test images.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import networks
from benchmarks.datafree import logits_of
from ptq.calibration import calibrate
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.utils.metrics import kl_divergence, top1


def main() -> None:
    """Print a line for every seed and rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", default="mobilenetv2_x0_5")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rates", default="0,0.003,0.01")
    parser.add_argument("--iterations", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = networks.load(options.network, options.data)
    real = networks.images(options.network, options.data, model)
    test, labels = real.test[:2500], real.labels[:2500]
    reference = logits_of(model.module, model, test)
    for seed in map(int, options.seeds.split(",")):
        for rate in map(float, options.rates.split(",")):
            started = time.process_time()
            inputs = model.preprocess.normalize(real.real(256, seed).floats())
            graph_model = prepare(model.module, (3, *model.preprocess.size))
            quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 4, 4))
            calibrate(quantized_model, inputs, preprocess=model.preprocess, seed=seed)
            config = method_preset("qdrop", "default", model.preprocess.size)
            config = replace(config, iterations=options.iterations, seed=seed, lr_factors=rate)
            reconstruct(quantized_model, inputs, config)
            with torch.no_grad():
                logits = logits_of(quantized_model.fake_quantized_forward, model, test)
            print(
                f"seed {seed}, rate {rate:g}: top-1 {top1(logits, labels):.2f} of {top1(reference, labels):.2f} %, "
                f"divergence {1e3 * kl_divergence(reference, logits):.1f}, {time.process_time() - started:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
