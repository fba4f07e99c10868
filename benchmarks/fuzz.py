"""Random networks by the thousand: preparing, blocks, export, simulation and onnxruntime must agree on each.

    python -m benchmarks.fuzz --examples 2000 [--seed 0]

What must hold is `check` in tests/test_random_networks.py. Where it does not, the network is made as small as it fails for the
same reason, and printed; the exit status is 1.
"""

import argparse
import sys
import traceback
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from tests.helpers import CHECKOUT

QUIET: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def bug_of(error: BaseException) -> str:
    """Return where an error was raised and of what kind: two failures that agree in it are one bug."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = [f for f in traceback.extract_tb(error.__traceback__) if CHECKOUT in Path(f.filename).parents]
    last = ours[-1] if ours else frame
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} ({last.line})"


def failing(examples: int, seed: int) -> dict[str, tuple[Any, str]]:
    """Return a case and its message for every bug that random cases show."""
    from tests.test_random_networks import cases, check

    found: dict[str, tuple[Any, str]] = {}
    count = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, phases=[Phase.generate], **QUIET)
    @hypothesis.given(cases())
    def attempt(case: Any) -> None:
        nonlocal count
        count += 1
        try:
            check(case)
        except Exception as error:
            bug = bug_of(error)
            size = len(case.spec.steps)
            if bug not in found or size < len(found[bug][0].spec.steps):
                found[bug] = case, str(error)
                print(f"{count}: {bug}: {str(error)[:300]}\n    {case}", flush=True)
        if count % 100 == 0:
            print(f"{count} cases, {len(found)} bugs", flush=True)

    attempt()
    print(f"{count} cases")
    return found


def main() -> None:
    """Try as many cases as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    found = failing(options.examples, options.seed)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
