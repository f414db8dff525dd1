"""Configurations from files, presets and the command line, and what is said about wrong ones."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loratory.config.fields import FIELDS
from loratory.config.load import dump_config, load_config, resolve
from loratory.config.schema import Config
from loratory.errors import WRONG_USE, LoratoryError

NEEDED = '[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_state_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(LoratoryError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == WRONG_USE
    return caught.value.message


def test_a_small_configuration(write: Write, tmp_path: Path) -> None:
    config = load_config(write(NEEDED + "resolution = [640, 512]\n[network]\nnetwork_dim = 8\n"))
    assert config.model.pretrained_model_name_or_path == "nano"
    assert config.dataset.train_data_dir == tmp_path / "set"
    assert config.dataset.resolution_wh == (640, 512)
    assert config.network.network_alpha == 8


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + NEEDED.replace("\n", "\r\n").encode())
    assert load_config(path).dataset.train_data_dir == tmp_path / "set"


def test_everything_wrong_is_named_at_once(write: Write) -> None:
    path = write(
        "min_snr_gamma = 5\n"
        '[model]\nfamly = "sd1"\n'
        '[dataset]\ntrain_data_dir = "set"\nresolution = "768"\nflip_aug = "true"\n'
        "[trainning]\nseed = 1\n"
        '[training]\nmixed_precision = "fp61"\nmin_snr_gama = 5\nnoise_offset = 0.1\ntrain_batch_size = 0\n'
        '[network]\nnetwork_type = "lokon"\n[optimizer]\nlearning_rate = true\nlr_warmup_steps = 1.5\n'
        "[sample]\nprompts = [1]\n[loss]\nhuber_c = 2.0\n[output]\noutput_name = 'a/b'\noutput_dir = ''\n"
    )
    lines = refusal(path).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "min_snr_gamma = 5: belongs in [loss]",
        'model.famly = "sd1": no such setting (did you mean model.family?)',
        "[trainning]: no such table (did you mean [training]?)",
        "training.min_snr_gama = 5: no such setting (did you mean loss.min_snr_gamma?)",
        "training.noise_offset = 0.1: belongs in [noise], not in [training]",
        'loss.huber_c = 2.0: does nothing with loss_type = "l2"',
        "model.pretrained_model_name_or_path: is required",
        'dataset.resolution = "768": must be a whole number from 32 to 8192 or a list of 2 whole numbers from 32 to '
        "8192; write it without quotes: 768",
        'dataset.flip_aug = "true": must be true or false; write it without quotes: true',
        'network.network_type = "lokon": must be one of "lora", "locon", "dora", "loha", "lokr", "dylora", "glora", '
        '"ia3", "diag-oft", "boft", "full" (did you mean "locon"?)',
        "optimizer.learning_rate = true: must be a number, 0 or more",
        "optimizer.lr_warmup_steps = 1.5: must be below 1",
        "training.train_batch_size = 0: must be 1 or more",
        'training.mixed_precision = "fp61": must be one of "no", "fp16", "bf16" (did you mean "fp16"?)',
        'output.output_dir = "": is empty; leave the key out instead',
        'output.output_name = "a/b": must be a file name: printable characters, no slash, not only dots',
        "sample.prompts = [1]: must be a list of texts",
    ]


def test_a_conflict_with_a_default_names_the_default(write: Write) -> None:
    assert "dataset.min_bucket_reso = 256 (the default): is above the resolution; use 128" in refusal(
        write(NEEDED + "resolution = 128\n")
    )


def test_a_setting_without_its_table(write: Write) -> None:
    assert "seed = 3: belongs in [training] or [sample]" in refusal(write("seed = 3\n" + NEEDED))
    assert "model = 3: must be a table: [model]" in refusal(write("model = 3\n"))
    assert "model = [{" in refusal(write("[[model]]\nfamily = 'sd1'\n"))
    assert "optimizer_args = {}: belongs in [optimizer]" in refusal(write(NEEDED + "[optimizer_args]\nx = 1\n"))


@pytest.mark.parametrize("value", ["nan", "inf", "-1.0", '"1e-4"', "1979-05-27", "[1]", "{}"])
def test_odd_values_for_a_number(write: Write, value: str) -> None:
    message = refusal(write(NEEDED + f"[optimizer]\nunet_lr = {value}\n"))
    assert message.count("\n") == 0
    assert "optimizer.unet_lr = " in message


def test_syntax_errors_show_the_line(write: Write) -> None:
    path = write('[model]\nfamily = "sd1"\nfamily = sd2\n')
    assert refusal(path) == f"{path}, line 3, column 10: Invalid value.\n    family = sd2"
    assert "line 2, column 11" in refusal(write('[model]\nfamily = "\n'))
    assert "line 2, column 16" in refusal(write("[dataset]\nresolution = [1\n\n\n"))
    with pytest.raises(LoratoryError) as caught:
        load_config(write('{"network_dim": 32}'))
    assert "JSON" in caught.value.hint


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.toml") == f"{tmp_path / 'missing.toml'} does not exist."
    assert "is a folder" in refusal(tmp_path)
    assert "is not a regular file" in refusal(Path("/dev/zero"))
    assert "Cannot read" in refusal(Path("x" * 5_000))
    binary = tmp_path / "model.safetensors"
    binary.write_bytes(b"\x10\0\0\0\0\0\0\0{\xff\xfe}")
    assert "not UTF-8 text (byte 0xff at offset 9)" in refusal(binary)
    with binary.open("wb") as large:
        large.truncate(7_000_000)
    assert "is no configuration: it has 7 MB" in refusal(binary)


def test_hostile_files_get_short_answers(write: Write) -> None:
    assert "nested too deeply" in refusal(write("a = " + "[" * 50_000))
    assert "no such table" in refusal(write("a" + ".a" * 5_000 + " = 1\n"))
    assert "no such setting" in refusal(write(NEEDED + '"[/b]" = "[@click=app.quit]x"\n'))
    message = refusal(write(NEEDED + '"\\u001b[31m\\n" = "\\u001b]0;title\\u0007"\n'))
    assert message.isprintable()
    many = refusal(write("".join(f"key{n} = 1\n" for n in range(5_000))))
    assert many.count("\n") < 50
    assert re.search(r"and \d+ more", many)
    assert len(refusal(write(NEEDED + f'"{"k" * 100_000}" = "{"v" * 100_000}"\n'))) < 1_000


def test_set_goes_above_the_file(write: Write) -> None:
    path = write(NEEDED + "[training]\nmax_train_epochs = 3\nseed = 1\n")
    config = load_config(
        path,
        [
            "training.seed=7",
            "max_train_steps=10",
            "mixed_precision=no",
            "resolution=[640, 768]",
            "lr_warmup_steps=10%",
            "optimizer_args=weight_decay=0.1 betas=0.9,0.99",
            "output_name=2024",
            "training_comment=a = b",
            "flip_aug=true",
            "compatibility=kohya",
            'sample.prompts=["a fox --n text", "b"]',
        ],
    )
    assert (config.training.seed, config.training.mixed_precision, config.dataset.flip_aug) == (7, "no", True)
    # Steps replace the epochs of the file, which they would contradict.
    assert (config.training.max_train_epochs, config.training.max_train_steps) == (None, 10)
    assert config.dataset.resolution == (640, 768)
    assert config.optimizer.warmup_steps(200) == 20
    assert config.optimizer.parsed_optimizer_args == {"weight_decay": 0.1, "betas": (0.9, 0.99)}
    assert (config.output.output_name, config.output.training_comment) == ("2024", "a = b")
    assert config.compatibility == "kohya"
    assert config.sample.prompts == ("a fox --n text", "b")


def test_wrong_assignments(write: Write) -> None:
    path = write(NEEDED)
    assert refusal(path, "seed=1") == "--set: seed = 1: could be training.seed or sample.seed; give the full name"
    assert "did you mean training.seed" in refusal(path, "training.sed=1")
    assert "--set: training.network_dim = 1: belongs in [network]" in refusal(path, "training.network_dim=1")
    assert refusal(path, "network_dim") == '--set "network_dim": write table.key=value'
    assert 'network.network_dim = "many": must be a whole number' in refusal(path, "network_dim=many")
    assert "must be a list of texts" in refusal(path, "prompts=a fox")
    assert "--set: training.max_train_steps = 3: contradicts exposure" in refusal(
        path, "exposure=3", "max_train_steps=3"
    )
    assert "not UTF-8" in refusal(path, "output_name=\udcff")
    assert "network_dim" in refusal(path, "network_dim=1\nnetwork_alpha = 3")
    assert "network_dim" in refusal(path, "network_dim=" + "[" * 50_000)


def test_the_last_assignment_wins(write: Write) -> None:
    assert load_config(write(NEEDED), ["network_dim=4", "network_dim=16"]).network.network_dim == 16


def test_relative_paths(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    path = write(
        NEEDED.replace('"set"', '"../sets/fox"')
        + 'reg_data_dir = "~/reg"\n'
        + '[network]\nnetwork_weights = "a/b.safetensors"\n',
        "project/config.toml",
    )
    config = load_config(Path("../project/config.toml"), ["vae=vae.safetensors", "base_weights=['x.safetensors']"])
    assert config.dataset.train_data_dir.resolve() == tmp_path / "sets/fox"
    assert config.dataset.reg_data_dir == tmp_path / "me/reg"
    assert config.network.network_weights is not None
    assert config.network.network_weights.resolve() == path.parent / "a/b.safetensors"
    assert config.output.output_dir.resolve() == path.parent / "output"
    assert config.output.runs_dir.resolve() == path.parent / "runs"
    assert config.model.vae == elsewhere / "vae.safetensors"
    assert config.model.base_weights == (elsewhere / "x.safetensors",)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nano", "nano"),
        ("stabilityai/sdxl", "stabilityai/sdxl"),
        ("models/here", "{folder}/models/here"),
        ("./model", "{folder}/model"),
        ("model.safetensors", "{folder}/model.safetensors"),
        ("a/b/c", "{folder}/a/b/c"),
        ("/m/x.safetensors", "/m/x.safetensors"),
        ("~/m.safetensors", "{home}/m.safetensors"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_where_the_base_model_is(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "models/here").mkdir(parents=True)
    config = load_config(write(NEEDED.replace("nano", written)))
    assert config.model.pretrained_model_name_or_path == meant.format(folder=tmp_path, home="/home/me")


def test_presets_inherit_and_the_file_wins(write: Write) -> None:
    write('preset = "./base.toml"\n[network]\nnetwork_dim = 16\n', "presets/middle.toml")
    write("[network]\nnetwork_dim = 64\nnetwork_alpha = 2.0\n[training]\nexposure = 50\n", "presets/base.toml")
    config = load_config(write('preset = "presets/middle.toml"\n' + NEEDED + "[training]\nmax_train_epochs = 4\n"))
    assert (config.network.network_dim, config.network.network_alpha) == (16, 2.0)
    assert (config.training.exposure, config.training.max_train_epochs) == (None, 4)
    assert config.preset == "presets/middle.toml"


def test_a_preset_from_the_command_line(write: Write) -> None:
    path = write('preset = "style-locon"\n' + NEEDED)
    assert load_config(path).dataset.goal == "style"
    config = load_config(path, ["preset=character-adamw"])
    assert (config.dataset.goal, config.network.network_alpha, config.preset) == ("character", 512, "character-adamw")


def test_an_own_preset_can_start_from_the_shipped_one_it_hides(write: Write) -> None:
    write('preset = "character-adamw"\n[network]\nnetwork_dim = 32\n', "home/config/presets/character-adamw.toml")
    network = load_config(write('preset = "character-adamw"\n' + NEEDED)).network
    assert (network.network_dim, network.network_alpha) == (32, 512)


def test_a_folder_whose_name_is_no_utf_8_is_what_is_told(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "base.safetensors").touch()
    path = folder / "config.toml"
    path.write_text(NEEDED.replace('"nano"', '"base.safetensors"'))
    with pytest.raises(LoratoryError, match=r'"base\.safetensors": leads through a name that is not valid UTF-8'):
        load_config(path)


def test_presets_that_cannot_be_used(write: Write) -> None:
    assert 'preset = "character-prodgy": There is no preset "character-prodgy" (did you mean character-prodigy?)' in (
        refusal(write('preset = "character-prodgy"\n' + NEEDED))
    )
    assert "preset = 3: must be text" in refusal(write("preset = 3\n" + NEEDED))
    assert "does not exist" in refusal(write('preset = "none.toml"\n' + NEEDED))
    write('preset = "b.toml"\n', "a.toml")
    write('preset = "a.toml"\n', "b.toml")
    assert "circle: a -> b -> a" in refusal(write('preset = "a.toml"\n' + NEEDED))
    write("[network]\nnetwork_dimm = 3\nnetwork_alpha = -1.0\n", "c.toml")
    message = refusal(write('preset = "c.toml"\n' + NEEDED))
    assert "c.toml: network.network_dimm = 3: no such setting (did you mean network.network_dim?)" in message
    assert "c.toml: network.network_alpha = -1.0: must be above 0" in message


def test_a_written_configuration_does_not_inherit_again(write: Write) -> None:
    config = load_config(write('preset = "style-locon"\n' + NEEDED + "[loss]\nmin_snr_gamma = 0\n"))
    assert config.loss.min_snr_gamma is None
    text = dump_config(config)
    assert 'from_preset = "style-locon"' in text
    again = load_config(write(text, "run/config.toml"))
    assert again == config
    assert again.preset == "style-locon"
    assert "stands beside preset" in refusal(write('preset = "locon"\n' + text))


def test_a_written_configuration_spells_every_setting_out(write: Write) -> None:
    text = dump_config(load_config(write(NEEDED)))
    assert "network_alpha = 32.0" in text
    assert "state_every_n_steps = 100" in text
    assert "conv_dim" not in text


# What a TOML file can hold: any text but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = TEXT.filter(lambda text: "\0" not in text).map(lambda text: Path("/p", text.lstrip("/")))
RATES = st.floats(0, 10, allow_nan=False)
JSON = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TABLES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "model": {
        "family": st.sampled_from(["auto", "sd1", "sd2", "sdxl"]),
        "v_parameterization": st.none() | st.booleans(),
        "vae": st.none() | PATHS,
        "clip_skip": st.none() | st.integers(1, 12),
        "base_weights": st.lists(PATHS, max_size=3),
    },
    "dataset": {
        "resolution": st.integers(256, 1024) | st.tuples(st.integers(256, 1024), st.integers(256, 1024)),
        "alpha_background": st.tuples(*[st.integers(0, 255)] * 3),
        "subsets": st.lists(
            st.fixed_dictionaries(
                {"image_dir": PATHS},
                optional={"num_repeats": st.integers(1, 99), "class_tokens": TEXT, "flip_aug": st.booleans()},
            ),
            max_size=2,
        ),
        "validation_seed": st.none() | st.integers(0, 2**63),
    },
    "caption": {"caption_prefix": TEXT, "caption_separator": TEXT.filter(bool), "token_warmup_step": RATES},
    "network": {"network_dim": st.integers(1, 4096), "block_alphas": st.lists(RATES, max_size=3)},
    "optimizer": {
        "text_encoder_lr": st.none() | RATES | st.lists(RATES, min_size=1, max_size=2),
        "unet_lr": st.floats(1e-9, 1),
        "optimizer_args": st.sampled_from(["", "a=1", ["a=1", "b=2,3"]]) | st.dictionaries(TEXT, JSON, max_size=3),
        "lr_warmup_steps": st.integers(0, 999) | st.floats(0, 0.99) | st.integers(0, 99).map("{}%".format),
    },
    "training": {"seed": st.integers(0, 2**63 - 1), "exposure": st.none() | st.floats(0.1, 1e6)},
    "output": {"output_dir": PATHS, "metadata_description": TEXT},
    "sample": {"prompts": st.lists(TEXT, max_size=3), "negative_prompt": TEXT},
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables=st.fixed_dictionaries({name: st.fixed_dictionaries({}, optional=keys) for name, keys in TABLES.items()}),
    preset=st.none() | TEXT,
)
def test_what_is_written_is_read_back(tmp_path: Path, tables: dict[str, dict[str, Any]], preset: str | None) -> None:
    tables["model"]["pretrained_model_name_or_path"] = "nano"
    tables["dataset"]["train_data_dir"] = Path("/set")
    tables["output"].setdefault("output_dir", Path("/out"))
    tables["output"].setdefault("logging_dir", Path("/logs"))
    tables["output"]["runs_dir"] = Path("/runs")
    config = Config.model_validate({"preset": preset, **tables})
    path = tmp_path / "written.toml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(path) == config


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "from_preset", "model", "loss.x", "zzz", "a.b"]), JSON, max_size=5))
def test_no_value_is_a_defect_of_the_program(values: dict[str, Any]) -> None:
    document: dict[str, Any] = {}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        branch = document.setdefault(table, {}) if table else document
        if isinstance(branch, dict):
            branch[key] = value
    try:
        config = resolve(document, Path("/config.toml"))
    except LoratoryError as error:
        assert error.message.startswith("/config.toml: ")
    else:
        assert config.model.pretrained_model_name_or_path


def test_a_subset_is_read_with_its_paths_and_refused_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    head = '[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n'
    path.write_text(head + '[[dataset.subsets]]\nimage_dir = "set/10_fox"\nflip_aug = true\nkeep_tokens = 2\n')
    (subset,) = load_config(path).dataset.subsets
    assert subset.image_dir == tmp_path / "set/10_fox"
    assert (subset.flip_aug, subset.keep_tokens, subset.color_aug) == (True, 2, None)

    path.write_text(head + '[[dataset.subsets]]\nimage_dir = "a"\nflip_aug = 3\n[[dataset.subsets]]\nflip_agu = true\n')
    with pytest.raises(LoratoryError) as caught:
        load_config(path)
    assert caught.value.message.splitlines() == [
        f"{path}: dataset.subsets[1].flip_aug = 3: must be true or false",
        f"{path}: dataset.subsets[2].image_dir: is required",
        f"{path}: dataset.subsets[2].flip_agu = true: no such setting of a subset (did you mean flip_aug?)",
    ]
