"""Arrays on disk: named by their place, and refused when they do not fit."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.errors import InputError
from tiltrl.serialization import DamagedError, load_arrays, load_facts, save_arrays

CONFIG = EnergyConfig(action_width=4, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
TREE = {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2)), jnp.array(5))}


def test_a_module_comes_back_whole_under_dotted_names(tmp_path: Path) -> None:
    energy = Energy(3, 2, CONFIG, key=jax.random.key(0))
    save_arrays(tmp_path / "m.safetensors", energy)
    names = load_file(tmp_path / "m.safetensors")
    assert {"frequencies", "join.bias", "blocks.0.fc1.weight"} <= set(names)
    like = eqx.filter_eval_shape(Energy, 3, 2, CONFIG, key=jax.random.key(0))
    loaded = load_arrays(tmp_path / "m.safetensors", like)
    assert jax.tree.structure(loaded) == jax.tree.structure(energy)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(energy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_array_that_is_not_contiguous_keeps_its_order(tmp_path: Path) -> None:
    turned = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    save_arrays(tmp_path / "x", {"x": turned})
    np.testing.assert_array_equal(load_arrays(tmp_path / "x", {"x": turned})["x"], turned)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (TREE | {"c": jnp.zeros(1)}, "array 'c' is missing"),
        ({"a": TREE["a"]}, r"array 'b\.0' is unexpected"),
        (TREE | {"a": jnp.zeros(4)}, r"array 'a' is float32\[3\]; expected float32\[4\]"),
        (TREE | {"a": jnp.zeros(3, int)}, r"array 'a' is float32\[3\]; expected int32\[3\]"),
    ],
)
def test_other_arrays_than_expected_are_named(tmp_path: Path, like: dict, message: str) -> None:
    save_arrays(tmp_path / "x", TREE)
    with pytest.raises(InputError, match=f"x: {message}"):
        load_arrays(tmp_path / "x", like)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    save_arrays(tmp_path / "x", TREE)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:keep])
    with pytest.raises(InputError, match="x: not a readable safetensors file"):
        load_arrays(tmp_path / "x", TREE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: cannot be read: No such file"):
        load_arrays(tmp_path / "nowhere", TREE)


def test_facts_come_back_and_need_a_checksum_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"x": np.arange(3.0)}, {"step": "7"})
    assert load_facts(path) == {"step": "7"}
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"sha256", b"sha25v"))
    with pytest.raises(DamagedError, match="has no checksum"):
        load_facts(path)
    path.write_bytes(whole.replace(b'"7"', b'"8"'))
    with pytest.raises(DamagedError, match="its checksum is not"):
        load_arrays(path, {"x": np.arange(3.0)})


def test_a_header_that_would_take_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((1 << 21).to_bytes(8, "little") + b" " * 900)
    with pytest.raises(DamagedError, match="header takes 2097152 bytes"):
        load_arrays(path, {"x": np.arange(3.0)})


def test_a_flipped_bit_anywhere_in_the_arrays_is_found(tmp_path: Path) -> None:
    path, tree = tmp_path / "a.safetensors", {"x": np.arange(3.0, dtype=np.float32)}
    save_arrays(path, tree)
    whole = path.read_bytes()
    for at in range(len(whole) - 12, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match="its checksum"):
            load_arrays(path, tree)
