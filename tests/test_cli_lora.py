import json

import pytest
import torch
from safetensors.torch import save_file

from loratory.adapters.files import save_adapter
from loratory.cli.main import main

KEY = "lora_unet_mid_block_attentions_0_proj_in"
STATE = {
    f"{KEY}.alpha": torch.tensor(2.0),
    f"{KEY}.lora_down.weight": torch.ones(4, 6),
    f"{KEY}.lora_up.weight": torch.ones(5, 4),
}
EVIL = "[/b][@click=app.quit]x \x1b[2J\x9b31m\r\nnext"


@pytest.fixture
def adapter_file(tmp_path):
    path = tmp_path / "fox.safetensors"
    metadata = {"ss_output_name": EVIL, "ss_tag_frequency": json.dumps({"1_fox": {"[bold]fox\x1b[0m": 4}})}
    save_adapter(path, STATE, metadata, "fp16")
    return path


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["loratory", "lora", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_inspect_in_a_pipe_prints_one_plain_line_a_fact(capsys, monkeypatch, adapter_file):
    code, out, _ = run(capsys, monkeypatch, "inspect", adapter_file)
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert code == 0
    assert rows["type"] == "lora"
    assert rows["unet"] == "1 modules, rank 4, alpha 2, 44 parameters"
    assert rows["hash"].startswith("ok")
    assert rows["ss_output_name"].startswith("[/b][@click=app.quit]x ")
    assert rows["ss_output_name"].endswith("next")
    assert "[bold]fox" in rows["tags"]
    assert not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in out)


def test_inspect_on_a_terminal_shows_markup_as_text(capsys, monkeypatch, adapter_file):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capsys, monkeypatch, "inspect", adapter_file)
    assert code == 0
    assert "\t" not in out
    assert "[/b][@click=app.quit]x" in out
    assert "\x1b[2J" not in out
    assert "\x9b" not in out


def test_inspect_on_a_terminal_keeps_its_columns_and_cuts_long_values(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "fox.safetensors"
    save_adapter(path, STATE, {"ss_training_comment": "x" * 5000}, "fp16")
    _, out, _ = run(capsys, monkeypatch, "inspect", path)
    lines = out.splitlines()
    (of_type,) = [line for line in lines if line.startswith("type ")]
    (of_hash,) = [line for line in lines if line.startswith("hash ")]
    assert of_hash.index("ok") == of_type.index("lora")
    assert out.count("x") < 500
    assert "…" in out


def test_inspect_in_a_pipe_has_a_line_for_the_norm_of_each_block(capsys, monkeypatch, adapter_file):
    _, out, _ = run(capsys, monkeypatch, "inspect", adapter_file)
    (norm,) = [line.split("\t") for line in out.splitlines() if line.startswith("norm\t")]
    assert norm[:4] == ["norm", "unet", "mid", "change"]
    assert float(norm[4]) == pytest.approx(0.5 * 4 * 30**0.5, rel=1e-5)  # 5 x 6 numbers of 4, times alpha / rank
    assert norm[5] == "1"
    assert "in diffusers\tyes" in out.splitlines()


@pytest.mark.parametrize("arguments", [[], ["--ascii"]])
def test_inspect_on_a_terminal_draws_the_blocks(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "blocks.safetensors"
    layers = {f"lora_te_text_model_encoder_layers_{n}_mlp_fc1.diff": torch.ones(2, 2) for n in range(12)}
    unet = {
        f"lora_unet_{block}_attentions_0_proj_in.diff": torch.ones(2, 8) for block in ("down_blocks_0", "mid_block")
    }
    save_adapter(path, layers | unet, {}, "fp16")
    _, out, _ = run(capsys, monkeypatch, "inspect", path, *arguments)
    lines = [line for line in out.splitlines() if " in " in line and line.startswith(("unet ", "te1 "))]
    named = [line.split()[1] for line in lines if "modules" in line or "1 module" in line]
    assert named == ["down_0", "mid", "layers_0-3", "layers_4-7", "layers_8-11"]
    assert all(len(line) <= 80 for line in lines)
    bar = "#" if arguments else "█"
    assert [line.count(bar) for line in lines] == [32] * 5  # all five have the same norm
    assert "4 in 1 module" in lines[0]
    assert "4 in 4 modules" in lines[2]


def test_quick_reads_the_header_alone(capsys, monkeypatch, adapter_file):
    content = bytearray(adapter_file.read_bytes())
    content[-1] ^= 1
    adapter_file.write_bytes(content)
    code, out, _ = run(capsys, monkeypatch, "inspect", adapter_file, "--quick")
    assert code == 0
    assert not any(line.startswith(("hash", "norm")) for line in out.splitlines())
    found = json.loads(run(capsys, monkeypatch, "inspect", adapter_file, "--quick", "--json")[1])
    assert (found["hashes"], found["norms"]) == ("unread", None)
    assert json.loads(run(capsys, monkeypatch, "inspect", adapter_file, "--json")[1])["hashes"] == "wrong"
    code, _, err = run(capsys, monkeypatch, "inspect", adapter_file, "--quick", "--base", "model")
    assert code == 2
    assert "--base" in err


def test_what_depends_on_the_base_model_is_said(capsys, monkeypatch, tmp_path):
    path = tmp_path / "ia3.safetensors"
    save_file({f"{KEY}.weight": torch.ones(4), f"{KEY}.on_input": torch.tensor(0)}, path)
    _, out, _ = run(capsys, monkeypatch, "inspect", path)
    assert "relative\t1" in out
    assert "--base MODEL" in out
    _, out, _ = run(capsys, monkeypatch, "verify", path)
    assert "ComfyUI (no" in out


def test_inspect_as_json_has_everything(capsys, monkeypatch, adapter_file):
    code, out, _ = run(capsys, monkeypatch, "inspect", adapter_file, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["metadata"]["ss_output_name"] == EVIL
    assert found["components"][0]["ranks"] == {"4": 1}
    assert found["parameters"] == 44
    assert found["hashes"] == "ok"
    assert found["kinds"] == {"lora": 1}
    assert found["loaders"]["ComfyUI"] == {"verdict": "yes", "how": ""}
    assert found["norms"][0]["block"] == "mid"
    assert found["not_measured"] == {}


def test_verify_says_when_a_file_is_sound(capsys, monkeypatch, adapter_file):
    code, out, _ = run(capsys, monkeypatch, "verify", adapter_file)
    assert code == 0
    assert "is sound" in out


def test_verify_finds_what_is_wrong(capsys, monkeypatch, tmp_path):
    path = tmp_path / "broken.safetensors"
    save_file({name: tensor for name, tensor in STATE.items() if "lora_up" not in name}, path)
    code, out, _ = run(capsys, monkeypatch, "verify", path)
    assert code == 1
    assert "error: " in out
    assert KEY in out
    code, out, _ = run(capsys, monkeypatch, "verify", path, "--json")
    found = json.loads(out)
    assert code == 1
    assert not found["ok"]
    assert {finding["rule"] for finding in found["findings"]} == {"incomplete", "hash"}


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_other_files_are_wrong_use(capsys, monkeypatch, tmp_path, verb):
    path = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.x.weight": torch.zeros(1)}, path)
    code, out, err = run(capsys, monkeypatch, verb, path)
    assert code == 2
    assert out == ""
    assert "is a base model" in err


def test_names_that_are_orders_to_a_terminal_are_text(capsys, monkeypatch, tmp_path):
    path = tmp_path / "evil.safetensors"
    name = EVIL.replace(".", "")
    save_file({f"lora_unet_{name}.lora_down.weight": torch.ones(2, 2), f"{KEY}.{EVIL}": torch.ones(1)}, path)
    for verb in ("inspect", "verify"):
        code, out, err = run(capsys, monkeypatch, verb, path)
        assert code == (1 if verb == "verify" else 0)
        assert "[/b]" in out
        assert not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in out + err)
