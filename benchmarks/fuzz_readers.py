"""Damaged files, guided by coverage of code: readers must raise PtqError and nothing else.

    pip install atheris
    python -m benchmarks.fuzz_readers READER [--seconds 60] [--found DIR]

READER is a name in `READERS` of tests/helpers/readers.py: weights.pth, data.npz, model.onnx, ... atheris (libFuzzer for Python) chooses what to
damage further by the lines of ptq, numpy, zipfile, json, Pillow and torch's unpickler that a file reaches; how it is damaged is
`mutate` of the same module, which also gets below checksums and lengths. A file that makes anything but PtqError escape is left in
DIR (crash-...), and the exit status is not 0.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTRUMENTED = ("ptq", "numpy.lib", "zipfile", "json", "PIL", "torch._weights_only_unpickler", "torch.serialization")


def main() -> None:
    """Damage files of one kind for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris (Linux, Python 3.11 to 3.13)")
    import torch  # not instrumented: too much of it runs when it is imported

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        from tests.helpers.readers import READERS, escapes, mutate

    reader = next((r for r in READERS if r.name == options.reader), None)
    if reader is None:
        sys.exit(f"no reader {options.reader!r}: {', '.join(r.name for r in READERS)}")
    options.found.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="ptq-fuzz-"))
    corpus, work = place / "corpus", place / "work"
    corpus.mkdir()
    work.mkdir()
    names = [path.name for path in reader.seeds(corpus)]

    def damage(data: bytes, most: int, seed: int) -> bytes:
        return mutate(data, random.Random(seed))[:most]

    def once(data: bytes) -> None:
        for left in work.iterdir():
            left.unlink()
        path = work / names[len(data) % len(names)]
        path.write_bytes(data)
        error: Any = escapes(reader, path)
        if error is not None:
            raise error

    flags = [
        f"-max_total_time={options.seconds}",
        f"-artifact_prefix={options.found}/",
        "-max_len=1000000",
        "-rss_limit_mb=8000",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], once, custom_mutator=damage)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
