"""Images from Sony's Model Compression Toolkit, in an environment of its own; called by synthesis_speed.py.

    python mct_images.py FILE.py:factory WEIGHTS OUT.npz --size 32 --images 256 --iterations 500 --seed 0

Needs model-compression-toolkit 2.6.1 and torch. Writes the images in RGB [0, 255] and prints the seconds that
their generation took.
"""

import argparse
import importlib.util
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Generate as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    np.random.seed(options.seed)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    import model_compression_toolkit as mct

    model = _network(*options.model.rsplit(":", 1))
    model.load_state_dict(torch.load(options.weights, weights_only=True))
    model.eval()
    config = mct.data_generation.get_pytorch_data_generation_config(
        n_iter=options.iterations, data_gen_batch_size=options.batch
    )
    started = time.perf_counter()
    made = mct.data_generation.pytorch_data_generation_experimental(
        model=model, n_images=options.images, output_image_size=options.size, data_generation_config=config
    )
    seconds = time.perf_counter() - started
    images = torch.cat([i.detach().cpu().reshape(-1, *i.shape[-3:]) for i in made])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    np.savez(options.out, images=pixels[: options.images].numpy())
    print(f"seconds {seconds:.2f} mct {mct.__version__} torch {torch.__version__}", flush=True)


def _network(file: str, factory: str) -> Any:
    spec = importlib.util.spec_from_file_location("network", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module
    spec.loader.exec_module(module)
    return getattr(module, factory)()


if __name__ == "__main__":
    main()
