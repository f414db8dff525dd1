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


def test_inspect_as_json_has_everything(capsys, monkeypatch, adapter_file):
    code, out, _ = run(capsys, monkeypatch, "inspect", adapter_file, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["metadata"]["ss_output_name"] == EVIL
    assert found["components"][0]["ranks"] == {"4": 1}
    assert found["parameters"] == 44
    assert found["hashes"] == "ok"


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
