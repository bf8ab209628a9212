"""`tiltrl baseline`: EDA's rivals on the same data, network budget and evaluation."""

from __future__ import annotations

from typing import Annotated

import tyro
from rich.console import Console

from tiltrl.baseline import Baseline
from tiltrl.evaluation.report import draw, print_table
from tiltrl.evaluation.scores import score_label
from tiltrl.methods import MethodName
from tiltrl.options import RunConfig
from tiltrl.progress import LiveProgress
from tiltrl.scoring import write_run

console = Console(markup=False, emoji=False)  # what is in brackets or colons is the user's text


def baseline(name: tyro.conf.Positional[MethodName], config: Annotated[RunConfig, tyro.conf.arg(name="")]) -> None:
    """Train and evaluate one of EDA's rivals, in the folder of `tiltrl run`, whose behavior and critic it shares.

    Example: tiltrl baseline idql demo

    bc: a Gaussian, by maximum likelihood; bc-diffusion: the behavior model; iql: a Gaussian, advantage-weighted; idql:
    the best by IQL's Q of many of the behavior's actions; qgpo, diffusion-dice: the behavior guided; diffusion-ql: a
    diffusion policy that climbs Q; srpo: a deterministic policy beside the behavior's score; cnf: in the latent space
    of a flow. docs/baselines.md tells their papers and settings.
    """
    with LiveProgress(console) as progress:
        rival = Baseline(name, config, progress)
        run = rival.run
        policy = rival.save()
        if run.data.task.env_spec is None:
            progress.say(f"policy in {policy}; the data names no environment, so there is nothing to evaluate in")
            return
        rows, episodes = rival.evaluate()
    label = score_label(run.data.task)
    trust = run.trust if rival.method.critic is not None else []
    results = write_run(run, rows, episodes, label, trust, f"baseline-{name}.json", method={name: rival.config})
    picture = run.folder.path / f"baseline-{name}.png"
    draw(rows, label, picture, f"{config.dataset}: {name}, {config.preset} preset, {config.seeds} seed(s)")
    console.print()
    print_table(rows, label, console)
    console.print(f"\npicture  {picture}\nnumbers  {results}\npolicy   {policy}", highlight=False, soft_wrap=True)
