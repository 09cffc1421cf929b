"""A training run that was stopped goes on as if it had not been. PyTorch is not needed for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.train.checkpoint import Checkpoint, progress_line, read, write
from tools.train.head_ct_triage_samples import Source, Training

HOW = {"steps": 8, "rate": 2e-3, "noise": (1.0, 2.0)}


def test_a_restored_source_draws_what_the_first_one_would_have(tmp_path: Path) -> None:
    how = Training(slices=2)
    source = Source(how, seed=4)
    for _ in range(3):
        source.sample()
    slices, generator = source.state()
    file = tmp_path / "run.npz"
    write(file, Checkpoint(HOW, 3, {"slices": slices}, {"drawing": generator}))
    expected = [source.sample() for _ in range(3)]

    saved = read(file, HOW)
    other = Source(how, seed=5)
    other.restore(saved.arrays["slices"], saved.facts["drawing"])
    for sample in expected:
        again = other.sample()
        np.testing.assert_array_equal(again.head.hu, sample.head.hu)
        np.testing.assert_array_equal(again.blood, sample.blood)
        assert (again.bleeds, again.certain) == (sample.bleeds, sample.certain)


def test_arrays_come_back_bit_for_bit_and_by_their_part(tmp_path: Path) -> None:
    arrays = {
        "network.weight": np.random.default_rng(0).standard_normal((3, 2), dtype=np.float32),
        "network.tracked": np.array(7),
        "pool.channels": np.ones((2, 4), np.float16),
    }
    write(tmp_path / "run.npz", Checkpoint(HOW, 5, arrays, {"picking": {"state": 2**127 + 1}}))
    saved = read(tmp_path / "run.npz", HOW)
    assert saved.step == 5
    assert saved.facts == {"picking": {"state": 2**127 + 1}}
    network = saved.part("network.")
    assert set(network) == {"weight", "tracked"}
    np.testing.assert_array_equal(network["weight"], arrays["network.weight"])
    assert network["tracked"].shape == ()
    assert saved.part("pool.")["channels"].dtype == np.float16


def test_a_run_does_not_go_on_from_one_with_another_configuration(tmp_path: Path) -> None:
    write(tmp_path / "run.npz", Checkpoint(HOW, 1, {}, {}))
    with pytest.raises(ValueError, match="other rate, steps"):
        read(tmp_path / "run.npz", {**HOW, "steps": 9, "rate": 1e-3})
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.npz", HOW)


def test_a_run_stopped_while_it_writes_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.npz"
    write(file, Checkpoint(HOW, 1, {"pool": np.zeros(4)}, {}))

    def stop(*_arguments: object, **_arrays: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        write(file, Checkpoint(HOW, 2, {"pool": np.ones(4)}, {}))
    assert read(file, HOW).step == 1


def test_the_progress_line_says_when_the_run_will_end() -> None:
    assert progress_line(100, 400, 50, 100.0, 1.5) == "100/400 loss 1.500, 2.00 s a step, 10 min left"
