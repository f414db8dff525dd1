"""The benchmark scripts, on tiny models: they run, they count what they say, and they tell a wrong name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratory.training.device import pick_device

pytest.importorskip("resource", reason="the scripts ask the system how much memory a process used")


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_step_time_times_both_loops(capsys: pytest.CaptureFixture[str]) -> None:
    import step_time

    assert step_time.main(["--model", "tiny", "--unet-only", "--dim", "4", "--steps", "2", "--threads", "1"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    said = {name: text.strip() for name, text in lines}
    assert said["network"] == "lora of rank 4 on the UNet, 192 modules"
    assert float(said["real"].split()[1]) > 0 and float(said["bare"].split()[1]) > 0
    assert said["real"].split(";")[0].endswith("median of 2")


@pytest.mark.skipif(pick_device().type == "cuda", reason="on a GPU turns are longer")
def test_the_time_of_the_bare_loop_is_not_counted_as_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import step_time

    clock = [0.0]

    def slow_turn(bare: step_time.BareLoop) -> None:
        clock[0] += 1000.0
        bare.turns_s.append([1000.0])

    # One clock for the loop and the script; every look at it takes a millisecond.
    def now() -> float:
        clock[0] += 0.001
        return clock[0]

    monkeypatch.setattr(step_time.time, "perf_counter", now)
    monkeypatch.setattr(step_time.BareLoop, "take_turn", slow_turn)
    turns = step_time.Turns(length=1, settling=0, warm_up=1, counted=2)
    options = step_time.parse(["--resolution", "64", "--unet-only", "--set", "dataset.min_bucket_reso=64"])
    config = step_time.make_config(tmp_path, options, turns.steps)
    bare = step_time.BareLoop(config, turns, pick_device())
    real = step_time.run_real_loop(config, bare)
    assert [len(turn) for turn in real] == [1] * 4 and len(bare.turns_s) == 3
    assert all(0 < step.seconds < 1 for turn in real for step in turn)


@pytest.mark.slow
def test_the_whole_program_runs_on_a_checkpoint_and_names_its_tensors_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import real_architectures

    assert real_architectures.main(["tiny", "--resolution", "64", "--steps", "2", "--temporary", str(tmp_path)]) == 0
    assert "576 tensors, 0 missing, 0 unknown" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_wrong_name_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import real_architectures

    saved = tmp_path / "fox.safetensors"
    save_file({"lora_unet_nowhere.lora_down.weight": torch.zeros(4, 8)}, saved)
    assert real_architectures.compare_names(saved, "sd1", unet_only=True) == 1
    assert "1 tensors, 576 missing, 1 unknown" in capsys.readouterr().out
