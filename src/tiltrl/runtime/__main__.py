"""`python -m tiltrl.runtime`: an exported policy at work, in an environment or at a fixed rate.

Exit statuses: 0 done; 2 the input cannot be used; 3 interrupted, after telling what was measured so far.
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np

from tiltrl.errors import InputError
from tiltrl.runtime.clock import Beat, percentiles
from tiltrl.runtime.drive import Episodes, Noise, Record, drive, make_env
from tiltrl.runtime.policy import REASONS, Policy
from tiltrl.signals import STOPS

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, drive, print; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except InputError as error:
        print(f"tiltrl.runtime: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("tiltrl.runtime: interrupted before it began", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiltrl.runtime", description="Runs an exported policy.")
    parser.add_argument("policy", type=Path, help="a file that `tiltrl export` wrote")
    parser.add_argument("--env", help="Gymnasium's id, such as Hopper-v5; default: act on noise and throw it away")
    parser.add_argument("--episodes", type=_whole, default=10, help="with --env (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the noises; of the first episode (default: 0)")
    parser.add_argument("--hz", type=_positive, help="act at this rate by the clock; default: as fast as it goes")
    parser.add_argument("--seconds", type=_positive, help="stop after these (default: 10 without --env)")
    parser.add_argument("--bound", type=float, help="replace actions of a smaller share by the middle of the bounds")
    parser.add_argument("--threads", type=_whole, default=1, help="of onnxruntime (default: 1)")
    return parser


def _run(options: argparse.Namespace) -> int:
    policy = Policy(
        options.policy,
        seed=options.seed,
        threads=options.threads,
        bound=options.bound,
        on_bad_input="fallback",
    )
    card, record = policy.card, Record()
    env = make_env(options.env, card) if options.env else None
    seconds = options.seconds or (None if env else 10.0)
    if env is not None and seconds is None and getattr(env.spec, "max_episode_steps", None) is None:
        env.close()
        raise InputError(f"environment {options.env}: has no limit of steps, so an episode may never end: --seconds")
    kept = "" if card.candidates == 1 else f", {card.choice} of {card.candidates}"
    print(f"{options.policy}: {card.dataset!r}, {card.obs_dim} observations, {card.act_dim} actions{kept}", flush=True)
    beat = Beat(options.hz) if options.hz else None
    ticks: Iterable[int] = beat if beat is not None else itertools.count()
    status, began = DONE, time.perf_counter()
    told = began
    with closing(env) if env is not None else nullcontext():
        try:
            world = Noise(card, options.seed) if env is None else _episodes(env, record, options)
            for _ in drive(policy, world, record, ticks, seconds):
                told = _tell_progress(len(record.seconds), began, told)
        except KeyboardInterrupt:
            status = INTERRUPTED
    for line in _lines(policy, record, beat, in_env=env is not None):
        print(line)
    if status == INTERRUPTED:
        print("tiltrl.runtime: interrupted; the numbers are of what was done until then", file=sys.stderr)
    return status


def _episodes(env: object, record: Record, options: argparse.Namespace) -> Episodes:
    return Episodes(env, record, episodes=options.episodes, seed=options.seed)


def _tell_progress(steps: int, began: float, told: float) -> float:
    """A line on stderr where the last was two seconds ago; returns when it was."""
    now = time.perf_counter()
    if now - told < 2.0:
        return told
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{now - began:.0f} s, {steps} steps", end=end, file=sys.stderr, flush=True)
    return now


def _lines(policy: Policy, record: Record, beat: Beat | None, *, in_env: bool) -> list[str]:
    """What to print, a line for each thing that was measured."""
    if not record.seconds:
        return ["nothing was measured"]
    lines = []
    if in_env:
        returns = np.array(record.returns)
        told = (
            f"mean {returns.mean():.1f}, {returns.min():.1f} to {returns.max():.1f}" if len(returns) else "none ended"
        )
        lines.append(f"returns    {told} ({len(returns)} whole episodes)")
    lines.append(f"latency    {percentiles(record.seconds)} ({len(record.seconds)} steps)")
    if beat is not None:
        ticks = len(beat.late) + beat.missed
        lines.append(f"rate       {beat.hz:g} Hz: {beat.missed} of {ticks} deadlines missed")
        lines.append(f"lateness   {percentiles(beat.late)}")
    if in_env and record.shares:  # on noise they would mean nothing
        shares = np.array(record.shares)
        below = ", ".join(f"{(shares < bound).mean():.2%} below {bound:g}" for bound in (0.01, 0.001))
        lines.append(f"anomaly    share of logged actions as unusual: median {np.median(shares):.3f}, {below}")
    reasons = ", ".join(f"{name} {policy.counts[name]}" for name in REASONS if policy.counts[name])
    replaced = sum(policy.counts[name] for name in REASONS)
    lines.append(f"fallback   {replaced} of {policy.counts['steps']} steps{f' ({reasons})' if reasons else ''}")
    return lines


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


if __name__ == "__main__":
    for number in STOPS:  # all as Ctrl-C, unless the shell wants them ignored
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
