"""ptq: compress trained vision networks without data.

    from ptq import quantize
    made = quantize(model, bits=4)      # made.folder holds model.onnx and the report

The names of `__init__.pyi` are imported when first used, so that `import ptq` and the command line start at once.
Packages, from the top down; each may import those below it:

    cli             the command line
    run             the story of a run, from a model to a validated file: read `ptq.run.pipeline` first
    reporting       what a run found out, for programs and for people
    analysis        where quantization hurts      \
    reconstruction  blocks tuned to their output   \\  stages: they don't know each other
    pruning         channels removed, and repair   |
    calibration     images from nothing            /
    export          ONNX, and the proof of it     /
    quantization    which tensors become integers, and the network that computes with them
    graph           a module in, a float graph in canonical form out
    models          a name becomes a network
    data            images from disk, and what stands between an image and a network
    config, utils   settings as data; files, units, the machine
    errors, progress
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
