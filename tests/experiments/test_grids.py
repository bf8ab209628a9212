"""The grid of each experiment, by hand; and what is refused before any work."""

import pytest

from tiltrl.bandit.datasets import SETS
from tiltrl.errors import InputError
from tiltrl.experiments.cell import Cell
from tiltrl.experiments.grids import EXPERIMENTS, grid
from tiltrl.experiments.options import ExperimentOptions
from tiltrl.experiments.published import D4RL, TILTRL
from tiltrl.methods import METHODS


def cells(name, *, together=False, **changes) -> list[Cell]:
    return grid(ExperimentOptions(name, **changes), together=together)


def test_scores_are_data_sets_by_seeds_by_methods():
    found = cells("scores", data=("demo", "x.npz"), methods=("eda", "bc"), seeds=2)
    assert [(cell.data, cell.seed, cell.method) for cell in found] == [
        (data, seed, method) for data in ("demo", "x.npz") for seed in (0, 1) for method in ("eda", "bc")
    ]
    rivals = [(method, None) for method in METHODS]
    usual = [(cell.method, cell.critic) for cell in cells("scores")]
    assert usual == [("eda", None), ("eda", "iql"), *rivals]
    papers = [(cell.method, cell.critic) for cell in cells("scores", preset="paper")]
    assert papers == [("eda", None), *rivals]  # its EDA has that critic


def test_eda_on_a_critic_is_a_method():
    (cell,) = cells("scores", methods=("eda-softmax",))
    assert (cell.method, cell.critic) == ("eda", "softmax")


def test_seeds_together_are_one_cell():
    (cell,) = cells("scores", together=True, methods=("eda",), seeds=3)
    assert (cell.seed, cell.seeds) == (0, 3)


def test_sweeps_are_the_papers():
    assert [cell.critic for cell in cells("critics")] == ["iql", "softmax", "online", "ensemble", "advantage"]
    assert [cell.label_fraction for cell in cells("label-fraction")] == [0.01, 0.02, 0.1, 0.2, 0.5, 1.0]
    assert [(cell.k, cell.objective) for cell in cells("k")] == [
        (k, objective) for objective in ("value", "preference") for k in (2, 4, 16, 64)
    ]
    assert [cell.beta for cell in cells("beta")] == [(0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0)]


def test_steps_of_a_training_curve_are_shares_of_the_presets():
    assert [cell.align_steps for cell in cells("training-curve")] == [30, 60, 150, 300, 600, 1500, 3000]
    assert [cell.align_steps for cell in cells("training-curve", preset="paper")][-2:] == [100_000, 200_000]
    assert [cell.align_steps for cell in cells("training-curve", budget=0.001)] == [1, 2, 3]


def test_values_replace_the_papers():
    assert [cell.critic for cell in cells("critics", values=("iql",))] == ["iql"]
    assert [cell.align_steps for cell in cells("training-curve", values=("5", "1e3"))] == [5, 1000]
    assert [cell.beta for cell in cells("beta", values=("0.5", "2"))] == [(0.5, 2.0)]


def test_d4rl_is_sixteen_tasks_with_the_papers_temperatures_under_its_preset():
    found = cells("scores", data=("d4rl",), methods=("eda", "iql"), preset="paper")
    assert len(found) == 32
    ours = {cell.data: cell.beta for cell in found if cell.method == "eda"}
    assert ours["d4rl:hopper-medium-v2"] == (0.2,) and ours["d4rl:kitchen-mixed-v0"] == (3.0,)
    assert {cell.beta for cell in found if cell.method == "iql"} == {()}
    assert {cell.beta for cell in cells("scores", data=("d4rl",), methods=("eda",))} == {()}


def test_the_paper_sweeps_larger_temperatures_on_mazes_and_kitchens():
    found = {cell.data: cell.beta for cell in cells("beta", data=("d4rl",))}
    assert found["d4rl:walker2d-medium-v2"][0] == 0.1
    assert found["d4rl:antmaze-umaze-v2"] == found["d4rl:kitchen-complete-v0"] == (0.3, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0)


def test_bandits_are_three_commands_a_set():
    found = cells("bandit")
    assert len(found) == 3 * len(SETS)
    assert [(cell.method, cell.objective) for cell in found[:3]] == [
        ("bandit", "value"), ("bandit", "preference"), ("bandit-compare", None),
    ]  # fmt: skip


def test_a_list_may_be_named_among_data_sets():
    assert [cell.data for cell in cells("beta", data=("demo", "tiltrl", "demo"))] == ["demo", *TILTRL]


def test_published_means_are_those_of_the_paper():
    rows = list(D4RL.values())  # the paper's means are of numbers with more digits than its table has
    for name, mean in {"eda": 83.7, "iql": 71.4, "diffusion_ql": 82.1, "qgpo": 80.7}.items():
        assert sum(getattr(row, name) for row in rows) / 16 == pytest.approx(mean, abs=0.1)
    locomotion = {"eda": 87.3, "iql": 76.9, "idql": 82.1, "qgpo": 86.6}
    for name, mean in locomotion.items():
        assert sum(getattr(row, name) for row in rows[:9]) / 9 == pytest.approx(mean, abs=0.1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("table", {}, "experiment 'table' is unknown; choose one of scores, critics, .*bandit"),
        ("scores", {"methods": ("edo",)}, "method 'edo' is unknown; choose of eda, eda-advantage, .*cnf"),
        ("scores", {"data": ("d4lr",)}, "data = d4lr: .*one of the lists d4rl, tiltrl, bandits"),
        ("scores", {"data": ("moons",)}, "data = moons: scores wants what `tiltrl run` takes"),
        ("bandit", {"data": ("demo",)}, "data = demo: bandit wants of swissroll"),
        ("scores", {"values": ("1",)}, "values = 1: scores sweeps nothing"),
        ("beta", {"methods": ("bc",)}, "methods = bc: beta is about EDA"),
        ("critics", {"values": ("q",)}, "critic 'q' is unknown; choose of advantage, iql"),
        ("beta", {"values": ("0",)}, "beta = 0.0; a temperature lies in"),
        ("beta", {"values": ("cold",)}, "values = cold; numbers are wanted"),
        ("beta", {"values": ("nan",)}, "values = nan; numbers are wanted"),
        ("k", {"values": ("1",)}, "values = 1; of k they lie in 2 to 1024"),
        ("k", {"values": ("2.5",)}, "values = 2.5; whole numbers are wanted"),
        ("label-fraction", {"values": ("2",)}, "values = 2; of label-fraction they lie in"),
        ("scores", {"seeds": 0}, "seeds = 0"),
        ("scores", {"workers": 0}, "workers = 0"),
        ("scores", {"episodes": 0}, "episodes = 0"),
        ("scores", {"budget": 2.0}, "budget = 2"),
        ("scores", {"preset": "slow"}, "preset 'slow' is unknown"),
        ("scores", {"cpus": 0.0}, "cpus = 0, gpus = 0"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_can(name, changes, message):
    with pytest.raises(InputError, match=message):
        cells(name, **changes)


def test_every_experiment_has_a_grid():
    assert all(cells(name) for name in EXPERIMENTS)
