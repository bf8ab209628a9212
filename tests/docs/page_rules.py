"""How the blocks of the pages are run small, and what of them is not run, with the reason."""

from __future__ import annotations

import re

# --- The one table of small settings ----------------------------------------------------------------------------------

ALWAYS: dict[str, dict[str, str]] = {
    "run": {"--episodes": "1"},
    "evaluate": {"--episodes": "1"},
    "distill": {"--budget": "0.0005"},
    "preferences make": {"--pairs": "40"},
    "data collect": {"--episodes": "2"},
    "play": {"--steps": "10"},
}
"""Options that get this value, whatever the page says."""

WHERE_TYPED: dict[str, dict[str, str]] = {
    "-m tiltrl.runtime": {"--seconds": "0.2", "--episodes": "1"},
    "critic check": {"--rollouts": "2", "--horizon": "5", "--steps-ahead": "2"},
}
"""Options that get this value where the page has them."""

NAMES = {"demo[:0.02]": "demo[:0.5]"}
"""Data sets, of which `demo` is one of 16 episodes; in commands and in Python."""

# --- What is not run --------------------------------------------------------------------------------------------------

NOT_RUN: dict[str, str] = {
    r"^while ": "the loop is run with stand-ins by tests/test_reliability_page.py",
    r"^tiltrl push |^hf auth": "needs an account; tests/test_hub.py has a stand-in for the hub",
    r"^(make|git|cd) ": "makes an environment of its own, or takes long; that the target exists is tested",
    r"^python -m tiltrl\.runtime\b": "measures by the clock; tests/runtime/test_runtime_main.py runs it",
    r"\bpip install\b": "would download; that the extra exists is tested",
    r"\bpython benchmarks/": "takes minutes to hours; that the script and its options exist is tested",
    r"\b(d4rl|ogbench|lerobot|hf):": "would download",
    r"^tiltrl push\b|^hf auth\b": "needs the hub; tests/test_hub.py pushes to a stand-in",
    r"^srun |--coordinator": "needs several machines; tests/training/test_parallel.py has two processes",
    r"^tiltrl baseline\b": "trains by numbers of its own; tests/test_baseline.py runs each small",
    r"^tiltrl bandit\b": "takes minutes even with few steps, since what it measures stays; tests/bandit has it",
    r"^tiltrl experiment\b": "takes minutes; tests/experiments and tests/test_cli_experiment.py run it small",
    r"^tiltrl report runs/(hopper|experiments)": "takes folders that take minutes; tests/report has several small ones",
    r"^tiltrl bench\b": "measures by the clock; tests/bench runs it small",
    r"--preset paper": "takes hours",
    r"CUDA_VISIBLE_DEVICES|JAX_PLATFORMS=cuda": "needs a GPU",
    r"tensorboard|http\.server|mkdocs serve": "serves until it is stopped",
}
"""Steps that match are only parsed, and why."""

SLOW = {"README", "data", "deploy", "critics", "preferences", "trust", "choosing", "reproduce", "report", "extend"}
"""Pages whose blocks take half a minute or more to run; the fast tests parse them."""

NEEDS_RUN = {"data", "trust", "deploy", "report"}
"""Pages that take the run of `tiltrl run demo` as given."""


def reason_not_to_run(step: str) -> str | None:
    """Why a step is only parsed; None where it is run."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, step)), None)


def small(command: list[str]) -> list[str]:
    """The same command of `tiltrl` or `python -m tiltrl.runtime` with small settings."""
    names = command[1:3]
    found = [NAMES.get(word, word) for word in command]
    for length in (1, 2):
        key = " ".join(names[:length])
        for option, value in ALWAYS.get(key, {}).items():
            found = with_option(found, option, value)
        for option, value in WHERE_TYPED.get(key, {}).items():
            found = with_option(found, option, value) if option in found else found
    return found


def with_option(command: list[str], option: str, value: str) -> list[str]:
    """The command with an option set to one value, in place of those that it has."""
    if option not in command:
        return [*command, option, value]
    at = command.index(option)
    end = next((i for i in range(at + 1, len(command)) if command[i].startswith("--")), len(command))
    return [*command[: at + 1], value, *command[end:]]
