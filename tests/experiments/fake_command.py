"""Stands in for `tiltrl run` and `tiltrl baseline`: python fake_command.py SWITCHES RESULT METHOD SEED SEEDS EPISODES.

Files in the folder SWITCHES say what it does: `fail-METHOD`: it ends as by bad input; `silent-METHOD`: it leaves
nothing; `hang`: it works until it is interrupted, or whoever started it is gone. It writes down there that it was
called, and that it has saved.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

switches, result = Path(sys.argv[1]), Path(sys.argv[2])
method, (seed, seeds, episodes) = sys.argv[3], map(int, sys.argv[4:])
POLICY = "aligned, beta 1" if method == "eda" else method
with open(switches / "calls", "a") as calls:
    calls.write(f"{method} {seed}\n")
print("behavior 5/10", flush=True)
if (switches / "hang").exists():
    signal.signal(signal.SIGINT, lambda *_: (switches / f"saved-{method}-{seed}").touch() or sys.exit(3))
    (switches / f"hangs-{method}-{seed}").touch()
    parent = os.getppid()
    while (switches / "hang").exists():
        time.sleep(0.02)
        if os.getppid() != parent:
            sys.exit(3)
if (switches / f"fail-{method}").exists():
    print("tiltrl: error: rewards: they are all zero", file=sys.stderr)
    sys.exit(2)
if not (switches / f"silent-{method}").exists():
    base = {"eda": 50.0, "iql": 40.0}.get(method, 30.0)
    table = [[base + i + episode for episode in range(episodes)] for i in range(seed, seed + seeds)]
    returns = [
        {"policy": POLICY, "seed": seed + i, "returns": [10 * x for x in row], "lengths": [1] * episodes}
        for i, row in enumerate(table)
    ]
    rows = [
        {"policy": "data", "logged": True, "scores": [[10.0, 20.0, 30.0]]},
        {"policy": "behavior", "logged": False, "scores": [[20.0] * episodes] * seeds},
        {"policy": POLICY, "logged": False, "scores": table},
    ]
    if method == "eda":
        better = [[x + 5 for x in row] for row in table]
        rows.append({"policy": "aligned, beta 1, best of 4", "logged": False, "scores": better})
    for one in returns:
        one["environment_seeds"] = list(range(episodes))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"scores_are": "normalized score", "rows": rows, "episodes": returns, "other": 1}))
