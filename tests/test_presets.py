"""The presets that ship, a person's own, and `loratory presets`."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loratory.cli.presets import presets
from loratory.config.load import load_config
from loratory.config.presets import list_presets, shipped_folder
from loratory.errors import LoratoryError

SHIPPED = sorted(path.stem for path in shipped_folder().glob("*.toml"))
GUIDE = {
    "adamw8bit",
    "anime-640",
    "character-adamw",
    "character-prodigy",
    "dadapt",
    "low-memory-512",
    "multi-concept",
    "sdxl-1024",
    "vpred-zsnr",
}
TYPES = {
    "diag-oft": "diag-oft",
    "dora": "dora",
    "dylora": "dylora",
    "full": "full",
    "locon": "locon",
    "loha": "loha",
    "lokr-large": "lokr",
    "lokr-small": "lokr",
    "style-glora": "glora",
    "style-ia3": "ia3",
    "style-locon": "locon",
}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the person's own presets, empty."""
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home/config/presets"
    folder.mkdir(parents=True)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(presets, arguments)


def refusal(*arguments: str) -> LoratoryError:
    error = run(*arguments).exception
    assert isinstance(error, LoratoryError)
    return error


def test_the_guides_setups_ship() -> None:
    assert set(SHIPPED) == GUIDE | TYPES.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset_loads_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'preset = "{name}"\n[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'
    )
    config = load_config(path)
    assert config.network.network_type == TYPES.get(name, "lora")
    assert config.target_exposure == (35 if name.startswith("style") else 100)
    description = next(preset.description for preset in list_presets() if preset.name == name)
    assert 20 < len(description) < 65


def test_the_guides_main_setup(tmp_path: Path) -> None:
    run("new", "character-prodigy", "fox.toml", "--model", "nano", "--data", "set")
    config = load_config(tmp_path / "fox.toml")
    assert (config.network.network_type, config.network.network_dim, config.network.network_alpha) == ("lora", 32, 1)
    assert (config.optimizer.optimizer_type, config.optimizer.learning_rate) == ("Prodigy", 1)
    assert config.optimizer.parsed_optimizer_args == {"decouple": True, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    assert config.optimizer.lr_scheduler == "cosine"
    assert (config.dataset.resolution_wh, config.dataset.max_bucket_reso) == ((768, 768), 960)
    assert (config.caption.shuffle_caption, config.caption.keep_tokens) == (True, 2)
    assert (config.loss.min_snr_gamma, config.training.mixed_precision) == (5, "fp16")
    assert config.training.train_batch_size == 1


def test_list_names_them_with_a_line_each() -> None:
    lines = run("list").stdout.splitlines()
    assert len(lines) == len(SHIPPED)
    assert "character-prodigy  A character with Prodigy: the guide's main setup, start here" in lines
    assert not any("(" in line for line in lines)


def test_list_as_json(own: Path) -> None:
    (own / "mine.toml").write_text("# My own\n[network]\nnetwork_dimm = 3\n")
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert set(rows) == {*SHIPPED, "mine"}
    assert (rows["mine"]["description"], rows["mine"]["source"]) == ("My own", "own")
    assert "did you mean network.network_dim" in rows["mine"]["problems"][0]
    assert Path(rows["mine"]["path"]) == own / "mine.toml"
    assert rows["locon"]["problems"] == []
    (line,) = [line for line in run("list").stdout.splitlines() if line.startswith("mine ")]
    assert line.endswith("My own (yours, cannot be used)")


def test_broken_presets_are_listed_harmlessly(own: Path) -> None:
    (own / "bad.toml").write_bytes(b"\xff\xfe\0")
    (own / "loud.toml").write_text("# \x1b[31m[/b]\n")
    lines = run("list").stdout
    assert "is not UTF-8 text" in lines
    assert "[/b]" in lines
    assert "\x1b" not in lines


def test_show_prints_the_file_and_nothing_else() -> None:
    result = run("show", "locon")
    assert result.stdout == (shipped_folder() / "locon.toml").read_text()
    assert result.stderr == ""
    assert "did you mean locon" in refusal("show", "lokon").message
    assert "presets list" in refusal("show", "zzz").hint


def test_new_writes_a_configuration_that_loads(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    result = run(
        "new", "style-locon", "project/ink.toml", "--model", "/m/base.safetensors", "--data", "project/ink set"
    )
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "loratory plan project/ink.toml" in result.stderr
    spaced = run(
        "new", "style-locon", "project/ink two.toml", "--model", "/m/base.safetensors", "--data", "project/ink set"
    )
    assert "loratory plan 'project/ink two.toml'" in spaced.stderr
    text = (tmp_path / "project/ink.toml").read_text()
    assert 'preset = "style-locon"' in text
    assert 'train_data_dir = "./ink set"' in text
    config = load_config(tmp_path / "project/ink.toml")
    assert config.dataset.train_data_dir == tmp_path / "project/ink set"
    assert config.model.pretrained_model_name_or_path == "/m/base.safetensors"
    assert (config.output.output_name, config.network.network_type) == ("ink", "locon")
    # What stands there as a comment is right, once it is none.
    (tmp_path / "project/more.toml").write_text(re.sub(r"(?m)^# ?(?=[a-z_]+ = |\[sample\])", "", text))
    more = load_config(tmp_path / "project/more.toml")
    assert (more.output.save_every_n_epochs, more.sample.prompts_from_captions) == (1, 2)


def test_new_without_model_and_data_says_what_to_fill_in(tmp_path: Path) -> None:
    result = run("new", "dora", "x.toml")
    assert "Fill in pretrained_model_name_or_path and train_data_dir" in result.stderr
    with pytest.raises(LoratoryError) as caught:
        load_config(tmp_path / "x.toml")
    assert "model.pretrained_model_name_or_path: is required" in caught.value.message
    assert "dataset.train_data_dir: is required" in caught.value.message


def test_new_overwrites_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("mine")
    assert "exists already" in refusal("new", "dora", "x.toml").message
    assert path.read_text() == "mine"
    assert run("new", "dora", "x.toml", "--force").exit_code == 0
    assert 'preset = "dora"' in path.read_text()


def test_new_from_a_preset_given_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[network]\nnetwork_dim = 5\n")
    (tmp_path / "sub").mkdir()
    run("new", "./mine.toml", "sub/x.toml", "--model", "nano", "--data", "/set")
    assert load_config(tmp_path / "sub/x.toml").network.network_dim == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["doora", "x.toml"], "did you mean dora"),
        (["dora", "missing/x.toml"], "Cannot write missing/x.toml"),
        (["dora", "x.toml", "--output-name", "a/b"], "output.output_name"),
        (["./none.toml", "x.toml"], "No preset at"),
    ],
)
def test_new_leaves_nothing_behind_when_it_cannot_work(tmp_path: Path, arguments: list[str], reason: str) -> None:
    assert reason in refusal("new", *arguments).message
    assert not (tmp_path / "x.toml").exists()


def test_names_with_quotes_are_written_safely(tmp_path: Path) -> None:
    run("new", "dora", "x.toml", "--model", 'a"b\\.safetensors', "--data", "[/b]", "--output-name", 'q"\U0001f98a')
    config = load_config(tmp_path / "x.toml")
    assert config.model.pretrained_model_name_or_path == str(tmp_path / 'a"b\\.safetensors')
    assert config.dataset.train_data_dir == tmp_path / "[" / "b]"
    assert config.output.output_name == 'q"\U0001f98a'
