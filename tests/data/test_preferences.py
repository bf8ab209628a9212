"""Files of preferences: every format, and everything that can be wrong with one, before anything is trained."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tiltrl import scoring
from tiltrl.data.preferences import also_among, from_pairs, read_preferences
from tiltrl.errors import InputError
from tiltrl.options import RunConfig
from tiltrl.types import Candidates, Task

TASK = Task("log", None, (-1.0, -2.0), (1.0, 2.0), obs_dim=3)
OBS = np.arange(12, dtype=np.float32).reshape(4, 3)
CHOSEN = np.array([[0.1, 1.0], [0.2, 1.5], [0.3, -2.0], [-1.0, 0.0]], np.float32)
REJECTED = -0.5 * CHOSEN + 0.01


def flat(**fields: np.ndarray) -> dict[str, list[Any]]:
    """Vectors as columns `field.0`, ..., and `field.0.1` of several a row."""
    found = {}
    for field, array in fields.items():
        for index in np.ndindex(array.shape[1:]):
            found[".".join(map(str, (field, *index)))] = array[(slice(None), *index)].tolist()
    return found


def write(path: Path, columns: dict[str, Any]) -> Path:
    """A table of these columns, in the format of the path's ending."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    else:
        np.savez(path, **columns)
    return path


def questions(choice: list[Any], **more: np.ndarray) -> dict[str, list[Any]]:
    return flat(obs=OBS, a=CHOSEN, b=REJECTED, **more) | {"choice": choice}


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet"])
@pytest.mark.parametrize("rejected", [REJECTED, np.stack([REJECTED, 0.3 * CHOSEN + 0.02], axis=1)], ids=["1", "2"])
def test_flat_columns(tmp_path, name, rejected):
    found = read_preferences(write(tmp_path / name, flat(obs=OBS, chosen=CHOSEN, rejected=rejected)), TASK)
    np.testing.assert_array_equal(found.obs, OBS)
    np.testing.assert_array_equal(found.chosen, CHOSEN)
    np.testing.assert_array_equal(found.rejected, rejected.reshape(4, -1, 2))


@pytest.mark.parametrize("rejected", [REJECTED, np.stack([REJECTED, 0.3 * CHOSEN + 0.02], axis=1)], ids=["1", "2"])
def test_arrays_and_lists_are_the_same_as_flat_columns(tmp_path, rejected):
    arrays = {"obs": OBS, "chosen": CHOSEN, "rejected": rejected}
    files = [
        write(tmp_path / "a.npz", arrays),
        write(tmp_path / "b.parquet", {name: array.tolist() for name, array in arrays.items()}),
        write(tmp_path / "c.csv", flat(**arrays)),
    ]
    assert len({read_preferences(file, TASK).digest for file in files}) == 1
    assert from_pairs(**arrays, task=TASK).digest == read_preferences(files[0], TASK).digest


def test_another_answer_is_another_digest():
    ours = from_pairs(OBS, CHOSEN, REJECTED, TASK)
    assert ours.digest != from_pairs(OBS, REJECTED, CHOSEN, TASK).digest


def test_candidates_tell_only_which_is_best():
    rejected = np.stack([REJECTED, 0.3 * CHOSEN + 0.02], axis=1)
    found = from_pairs(OBS, CHOSEN, rejected, TASK).candidates()
    assert found.q.shape == (4, 3)
    np.testing.assert_array_equal(np.sort(found.q), np.tile([0.0, 0.0, 1.0], (4, 1)))
    for obs, action, q in zip(found.obs, found.action, found.q, strict=True):
        (row,) = np.flatnonzero((obs == OBS).all(axis=1))
        np.testing.assert_array_equal(action[q == 1][0], CHOSEN[row])
        others = {tuple(other) for other in action[q == 0]}
        assert others == {tuple(other) for other in rejected[row]}


def test_the_chosen_action_has_no_place_of_its_own():
    obs = np.arange(300.0).reshape(100, 3)
    found = from_pairs(obs, np.tile(CHOSEN, (25, 1)), np.tile(REJECTED, (25, 1)), TASK).candidates()
    assert 30 < found.q[:, 0].sum() < 70


@pytest.mark.parametrize("name", ["questions.csv", "questions.parquet"])
@pytest.mark.parametrize("answers", [["a", "B ", "tie", ""], ["1", "2", "TIE", ""], ["1.0", "2.", "tie", ""]])
def test_answered_questions(tmp_path, name, answers):
    found = read_preferences(write(tmp_path / name, questions(answers)), TASK)
    np.testing.assert_array_equal(found.chosen, [CHOSEN[0], REJECTED[1]])
    np.testing.assert_array_equal(found.rejected[:, 0], [REJECTED[0], CHOSEN[1]])
    assert (found.unanswered, found.ties) == (1, 1)
    assert "2 answered questions" in found.describe() and "1 unanswered and 1 ties left out" in found.describe()


@pytest.mark.parametrize("answers", [[1, 2, None, None], [1.0, 2.0, None, float("nan")]])
def test_answers_that_are_numbers_with_gaps(tmp_path, answers):
    found = read_preferences(write(tmp_path / "questions.parquet", questions(answers)), TASK)
    np.testing.assert_array_equal(found.chosen, [CHOSEN[0], REJECTED[1]])


def test_a_third_action(tmp_path):
    third = 0.3 * CHOSEN + 0.02
    found = read_preferences(write(tmp_path / "q.csv", questions(["c", "a", "", ""], c=third)), TASK)
    np.testing.assert_array_equal(found.chosen, [third[0], CHOSEN[1]])
    np.testing.assert_array_equal(found.rejected[0], [CHOSEN[0], REJECTED[0]])


def test_a_spreadsheets_csv(tmp_path):
    write(tmp_path / "q.csv", questions(["a", "b", "", ""]))
    text = (tmp_path / "q.csv").read_text().replace(",", ";")
    (tmp_path / "q.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read_preferences(tmp_path / "q.csv", TASK)) == 2


def test_rounding_beyond_a_bound_is_clipped():
    chosen = CHOSEN.copy()
    chosen[3, 0] = -1.000001
    assert from_pairs(OBS, chosen, REJECTED, TASK).chosen.min(axis=0)[0] == -1.0


def test_contradictions_are_counted_kept_or_dropped():
    obs = np.concatenate([OBS, OBS[:1], OBS[1:2]])  # the first state is answered both ways, the second twice alike
    chosen = np.concatenate([CHOSEN, REJECTED[:1], CHOSEN[1:2]])
    rejected = np.concatenate([REJECTED, CHOSEN[:1], REJECTED[1:2]])
    kept, dropped = (from_pairs(obs, chosen, rejected, TASK, what) for what in ("keep", "drop"))
    assert (len(kept), kept.contradictory) == (6, 2)
    assert (len(dropped), dropped.contradictory) == (4, 2)
    assert "2 contradict another one, kept" in kept.describe()
    assert "2 contradict another one, dropped" in dropped.describe()
    assert not (dropped.obs == OBS[0]).all(axis=1).any()
    with pytest.raises(InputError, match="nothing is left once those are dropped"):
        from_pairs(obs[[0, 4]], chosen[[0, 4]], rejected[[0, 4]], TASK, "drop")


def changed(array: np.ndarray, row: int, value: float) -> np.ndarray:
    found = array.copy()
    found[row, 0] = value
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chosen": changed(CHOSEN, 2, np.nan)}, r"row 2, chosen\.0: nan; finite"),
        ({"obs": changed(OBS, 1, np.inf)}, r"row 1, obs\.0: inf; finite"),
        ({"rejected": changed(REJECTED, 3, 1.5)}, r"row 3, rejected\.0\.0: 1.5; the action space is \(-1.0, -2.0\) to"),
        ({"rejected": np.where(np.arange(4)[:, None] == 1, CHOSEN, REJECTED)}, "row 1: the chosen action is also a"),
        ({"obs": OBS[:, :2]}, r"obs has rows of shape \(2,\); the behavior's data needs \(3,\)"),
        ({"chosen": CHOSEN[:, :1]}, r"chosen has rows of shape \(1,\)"),
        ({"rejected": np.zeros((4, 2, 3))}, r"rejected has rows of shape \(2, 3\)"),
        ({"rejected": np.zeros((4, 0, 2))}, "a state needs one rejected action at least"),
        (
            {"rejected": REJECTED[:2]},
            "rows differ in number: obs has 4, chosen has 4, rejected has 2; each field needs one",
        ),
        ({"obs": OBS[:0], "chosen": CHOSEN[:0], "rejected": REJECTED[:0]}, "holds no answered question"),
        ({"obs": np.float32(0.0)}, "rows differ in number: obs has no rows, chosen has 4, rejected has 4"),
        ({"rejected": REJECTED[:, 0]}, r"rejected has rows of shape \(\); the behavior's data needs \(1, 2\)"),
        ({"rejected": np.zeros((4, 1, 1, 2))}, r"rejected has rows of shape \(1, 1, 2\)"),
        ({"chosen": np.array([["x", "y"]] * 4)}, "chosen: type <U1; numbers are needed"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, fields, message):
    arrays = {"obs": OBS, "chosen": CHOSEN, "rejected": REJECTED} | fields
    path = write(tmp_path / "pairs.npz", arrays)
    with pytest.raises(InputError, match=message) as raised:
        read_preferences(path, TASK)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet", "pairs.npz"])
def test_a_missing_column_lists_those_there(tmp_path, name):
    columns = {"obs": OBS, "better": CHOSEN} if name.endswith("npz") else flat(obs=OBS, better=CHOSEN)
    with pytest.raises(InputError, match=r"holds no column 'chosen' nor chosen\.0, .*; it has obs.*better"):
        read_preferences(write(tmp_path / name, columns), TASK)


@pytest.mark.parametrize("gone", ["obs.1", "chosen.0"])
def test_a_gap_in_a_vector(tmp_path, gone):
    columns = flat(obs=OBS, chosen=CHOSEN, rejected=REJECTED)
    del columns[gone]
    with pytest.raises(InputError, match="without a gap"):
        read_preferences(write(tmp_path / "pairs.csv", columns), TASK)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("obs.0,obs.1\n1,2\n1,2,3\n", "line 3: 3 values; line 1 names 2 columns"),
        ("obs.0,obs.0\n1,2\n", "column 'obs.0' is there twice"),
        ("", "it has none"),
        ("obs.0,obs.1,obs.2,chosen.0,chosen.1,rejected.0,rejected.1\n1,2,3,,0,1,1\n", "line 2, column chosen.0: ''"),
    ],
)
def test_a_broken_csv(tmp_path, lines, message):
    (tmp_path / "pairs.csv").write_text(lines)
    with pytest.raises(InputError, match=message):
        read_preferences(tmp_path / "pairs.csv", TASK)


def test_a_csv_that_is_no_text(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"obs.0\n\xff\xfe\n")
    with pytest.raises(InputError, match="not readable as CSV"):
        read_preferences(tmp_path / "pairs.csv", TASK)


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet", "pairs.npz", "pairs.txt"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_preferences(tmp_path / name, TASK)


@pytest.mark.parametrize(("name", "place"), [("q.csv", "line 3"), ("q.parquet", "row 1")])
@pytest.mark.parametrize("answer", ["c", "3", "0", "left", "1.5", "a.0"])
def test_an_unknown_choice(tmp_path, name, place, answer):
    with pytest.raises(InputError, match=f"{place}, column choice: '{answer}'; a, b or 1, 2 is needed, or tie"):
        read_preferences(write(tmp_path / name, questions(["a", answer, "", ""])), TASK)


def test_objects_are_not_unpickled(tmp_path):
    path = write(tmp_path / "pairs.npz", {"obs": np.array([{}]), "chosen": CHOSEN, "rejected": REJECTED})
    with pytest.raises(InputError, match="pickled Python objects, which are never loaded"):
        read_preferences(path, TASK)


def test_no_answer_at_all(tmp_path):
    with pytest.raises(InputError, match="none of its 4 questions is answered; write a, b into the column choice"):
        read_preferences(write(tmp_path / "q.csv", questions(["", "tie", "", ""])), TASK)


def test_a_question_of_one_action(tmp_path):
    columns = flat(obs=OBS, a=CHOSEN) | {"choice": ["a"] * 4}
    with pytest.raises(InputError, match="holds 1 actions a question; two or more are needed"):
        read_preferences(write(tmp_path / "q.csv", columns), TASK)


def test_lines_are_those_of_the_file_though_unanswered_ones_are_left_out(tmp_path):
    columns = questions(["", "a", "", "b"])
    columns["b.0"][3], columns["b.1"][3] = columns["a.0"][3], columns["a.1"][3]
    with pytest.raises(InputError, match="line 5: the chosen action is also a rejected one"):
        read_preferences(write(tmp_path / "q.csv", columns), TASK)


def test_rows_whose_state_is_there_elsewhere():
    some = np.array([True, False, False, True])
    np.testing.assert_array_equal(also_among(OBS[[0, 0, 1, 2]], some), [True, True, False, True])


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (np.arange(40), "of 2 questions that it did not learn from (by chance 50%)"),
        (np.where(np.arange(40) == 39, 0, np.arange(40)), "chance 50%); 1 of states that it learned other answers of"),
        (np.arange(40) // 20, "not known, as all 2 questions held out are of states that it learned other answers of"),
        (np.arange(5), "not known, as none of 5 questions could be spared"),
    ],
)
def test_held_out_accuracy_is_of_states_that_were_not_learned_from(monkeypatch, states, said):
    seen, told = [], []
    monkeypatch.setattr(scoring, "member", lambda tree, _: tree)
    monkeypatch.setattr(scoring, "agreement", lambda policy, behavior, obs, action, q: seen.append(obs) or 1.0)
    n = len(states)
    given = Candidates(states.reshape(1, n, 1), np.zeros((1, n, 2, 1)), np.zeros((1, n, 2)))
    scaling = SimpleNamespace(normalize_obs=np.asarray, to_unit=np.asarray)
    run: Any = SimpleNamespace(
        candidates=given,
        scaling=scaling,
        tilts=["beta 1"],
        seeds=(0,),
        behavior=None,
        aligned=SimpleNamespace(policy=None),
        reporter=SimpleNamespace(say=told.append),
    )
    scoring._tell_agreement(run)
    assert len(told) == 1 and said in told[0]
    held_out = np.arange(n) % 20 == 19
    assert not set(np.ravel(seen)) & set(states[~held_out])


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet", "pairs.npz"])
def test_actions_of_one_number(tmp_path, name):
    task = Task("log", None, (-1.0,), (1.0,), obs_dim=2)
    chosen, rejected = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.1, 0.2])  # each is a chosen one somewhere
    obs = {"obs": OBS[:3, :2]} if name.endswith("npz") else flat(obs=OBS[:3, :2])
    path = write(tmp_path / name, obs | {"chosen": chosen, "rejected": rejected})
    for found in (read_preferences(path, task), from_pairs(OBS[:3, :2], chosen, rejected, task)):
        np.testing.assert_allclose(found.chosen, chosen[:, None], rtol=1e-6)
        np.testing.assert_allclose(found.rejected, rejected[:, None, None], rtol=1e-6)
        assert found.candidates().action.shape == (3, 2, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"obs": OBS[:3]}, "rows differ in number: obs has 3, a has 4, b has 4, choice has 4"),
        ({"obs": np.float32(1.0)}, "rows differ in number: obs has no rows, a has 4"),
        ({"b": REJECTED[:2]}, "rows differ in number: obs has 4, a has 4, b has 2, choice has 4"),
        ({"choice": np.array(["a"] * 5)}, "a has 4, b has 4, choice has 5"),
        ({"choice": np.array([["a"]] * 4)}, r"choice: shape \(4, 1\); one text or number a row is needed"),
    ],
)
def test_questions_whose_rows_differ_in_number(tmp_path, fields, message):
    arrays = {"obs": OBS, "a": CHOSEN, "b": REJECTED, "choice": np.array(["a", "b", "a", "b"])} | fields
    with pytest.raises(InputError, match=message):
        read_preferences(write(tmp_path / "q.npz", arrays), TASK)


def test_flat_arrays_whose_rows_differ_in_number(tmp_path):
    arrays = flat(obs=OBS, chosen=CHOSEN, rejected=REJECTED)
    with pytest.raises(InputError, match=r"obs\.0 \(4,\), obs\.1 \(3,\).*; each of these needs one number a row"):
        read_preferences(write(tmp_path / "pairs.npz", arrays | {"obs.1": arrays["obs.1"][:3]}), TASK)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chosen": [[0.1, 1.0], [0.2], [0.3, 0.0], [0.4, 0.0]]}, "pairs: chosen has rows of 1 to 2 values"),
        ({"obs": [[0.0, 1.0, 2.0], 3.0]}, "obs has rows of 1 to 3 values"),
        ({"rejected": [[[0.1, 1.0], [0.2]]] * 4}, "rejected has lists of several lengths"),
        ({"chosen": CHOSEN[:3].tolist()}, "rows differ in number: obs has 4, chosen has 3, rejected has 4"),
    ],
)
def test_lists_of_several_lengths(fields, message):
    given: dict[str, Any] = {"obs": OBS.tolist(), "chosen": CHOSEN.tolist(), "rejected": REJECTED.tolist()} | fields
    with pytest.raises(InputError, match=message):
        from_pairs(**given, task=TASK, name="pairs")


def test_a_choice_that_is_a_list(tmp_path):
    columns = questions([]) | {"choice": [["a"], ["b"], ["a"], ["b"]]}
    with pytest.raises(InputError, match=r"choice: type list<.*>; one text or number a row is needed$"):
        read_preferences(write(tmp_path / "q.parquet", columns), TASK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best_of": 4}, "best_of = 4: preferences have no values"),
        ({"rewards": "none"}, "rewards = none: preferences have no values"),
        ({"preferences": None, "contradictions": "drop"}, "contradictions = drop: only preferences contradict"),
    ],
)
def test_options_that_would_do_nothing(options, message):
    given: dict[str, Any] = {"preferences": Path("answers.csv")} | options
    with pytest.raises(InputError, match=message):
        _ = RunConfig("log.npz", **given).agreed
    assert RunConfig("log.npz", preferences=Path("answers.csv"), contradictions="drop").agreed == "preference"
