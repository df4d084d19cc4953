"""Tries all cases and prints what came of them, kind by kind.

    python -m tests.robustness [WORDS]

With WORDS, those whose name holds them. The exit code is 1 if an outcome is wrong.
"""

import os


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pathlib
import sys
import tempfile

from tests.robustness.case import KINDS, attempt
from tests.robustness.every import every_case, prepare


def run(words: str) -> int:
    """Tries the cases whose names hold `words`; returns the exit code."""
    prepare()
    outcomes = []
    for case in every_case():
        if words in case.name:
            with tempfile.TemporaryDirectory(prefix="im3d-robustness-", ignore_cleanup_errors=True) as folder:
                outcomes.append(attempt(case, pathlib.Path(folder)))
            if outcomes[-1].problem:
                print(f"[{case.kind}] {case.name}: {outcomes[-1].problem}", flush=True)
    print(f"\n{'kind':42} {'inputs':>7} {'right':>7} {'refused':>8} {'wrong':>6} {'slowest':>9} {'memory':>8}")
    rows = [(f"{number}. {name}", [o for o in outcomes if o.case.kind == number]) for number, name in KINDS.items()]
    for name, chosen in [*rows, ("all", outcomes)]:
        wrong = sum(bool(outcome.problem) for outcome in chosen)
        refused = sum(bool(outcome.line) and not outcome.problem for outcome in chosen)
        seconds = max((outcome.seconds for outcome in chosen), default=0.0)
        megabytes = max((outcome.megabytes for outcome in chosen), default=0.0)
        right = len(chosen) - wrong - refused
        print(f"{name:42} {len(chosen):7} {right:7} {refused:8} {wrong:6} {seconds:7.1f} s {megabytes:5.0f} MB")
    for what, worst in (("slowest", "seconds"), ("most memory", "megabytes")):
        if outcomes:
            print(f"{what}: {max(outcomes, key=lambda outcome: getattr(outcome, worst)).case.name}")
    return int(any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(run(" ".join(sys.argv[1:])))
