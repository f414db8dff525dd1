"""A configuration being written: what is typed, where values come from, the way back, and the file it becomes."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.config.draft import SUBSETS, Draft
from loratory.config.draft_files import Occupied, new_draft, open_draft, saved, saved_preset
from loratory.config.draft_text import dumped, rewritten
from loratory.config.draft_values import choices, parse_text, refusal, same, typed
from loratory.config.fields import FIELDS
from loratory.config.load import dump_config, load_config
from loratory.config.presets import list_presets
from loratory.config.toml_files import parse_toml
from loratory.errors import LoratoryError

HERE = Path("/somewhere")
NEEDED = {"model.pretrained_model_name_or_path": "nano", "dataset.train_data_dir": "set"}
PRESETS = [preset.name for preset in list_presets()]
TYPED = [
    "",
    "0",
    "1",
    "2",
    "16",
    "0.5",
    "1e-4",
    "true",
    "false",
    "768, 1024",
    "a fox",
    "a/b.safetensors",
    "10%",
    "nano",
]


@pytest.fixture(autouse=True)
def _own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))


def fox(preset: str | None = "character-prodigy", **tables: dict[str, Any]) -> Draft:
    given = {f"{table}.{key}": value for table, settings in tables.items() for key, value in settings.items()}
    return new_draft(preset, HERE, NEEDED | given)


def edited(draft: Draft, edits: list[tuple[str, str, str]]) -> Draft:
    """The draft after edits, those that are refused left out."""
    for verb, key, text in edits:
        try:
            if verb == "set":
                draft = draft.set(key, text)
            elif verb == "choose":
                draft = draft.choose(key)
            else:
                draft = draft.reset(key)
        except LoratoryError:
            continue
    return draft


EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "choose", "reset"]), st.sampled_from(list(FIELDS)), st.sampled_from(TYPED)),
    max_size=12,
)


class TestValues:
    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("training.seed", "7", 7),
            ("output.output_name", "2024", "2024"),
            ("output.output_name", '"2024"', "2024"),
            ("dataset.resolution", "768", 768),
            ("dataset.resolution", "768, 1024", [768, 1024]),
            ("sample.prompts", "a fox, side view", ["a fox, side view"]),
            ("sample.prompts", '["a fox", "a cat"]', ["a fox", "a cat"]),
            ("optimizer.lr_warmup_steps", "10%", "10%"),
            ("optimizer.optimizer_args", "weight_decay=0.1 betas=0.9,0.99", "weight_decay=0.1 betas=0.9,0.99"),
            ("model.base_weights", "a.safetensors", ["a.safetensors"]),
            ("optimizer.text_encoder_lr", "1e-4, 5e-5", [1e-4, 5e-5]),
            ("caption.caption_separator", '" "', " "),
        ],
    )
    def test_text_is_read_as_a_person_means_it(self, key: str, text: str, value: object) -> None:
        assert parse_text(key, text) == value
        assert parse_text(key, typed(key, value)) == value

    @pytest.mark.parametrize(
        ("key", "text", "reason"),
        [
            ("training.seed", "x", "whole number"),
            ("network.network_dim", "0", "must be 1 or more"),
            ("network.network_type", "lokon", 'did you mean "locon"'),
            ("optimizer.unet_lr", "nan", "finite"),
            ("output.output_name", "a/b", "no slash"),
            ("training.mixed_precision", "fp8", "one of"),
        ],
    )
    def test_a_wrong_value_gets_the_words_of_a_file_and_changes_nothing(
        self, key: str, text: str, reason: str, tmp_path: Path
    ) -> None:
        draft = fox()
        with pytest.raises(LoratoryError, match=reason) as refused:
            draft.set(key, text)
        table, name = key.split(".")
        path = tmp_path / "wrong.toml"
        document: dict[str, dict[str, Any]] = {
            "model": {"pretrained_model_name_or_path": "nano"},
            "dataset": {"train_data_dir": "set"},
        }
        document.setdefault(table, {})[name] = parse_text(key, text)
        path.write_text(tomli_w.dumps(document))
        with pytest.raises(LoratoryError) as in_file:
            load_config(path)
        assert refused.value.message in in_file.value.message

    @pytest.mark.parametrize("key", [key for key in FIELDS if choices(key)])
    def test_every_choice_can_be_taken(self, key: str) -> None:
        assert all(not refusal(key, choice) for choice in choices(key) if choice is not None)

    def test_choices_go_round_in_both_directions(self) -> None:
        draft = fox()
        count = len(choices("training.mixed_precision"))
        forth = draft
        for _ in range(count):
            forth = forth.choose("training.mixed_precision")
        assert forth.document == draft.document and len(forth.past) == count
        assert (
            draft.choose("training.mixed_precision").choose("training.mixed_precision", -1).document == draft.document
        )

    def test_what_is_typed_has_no_choices(self) -> None:
        with pytest.raises(LoratoryError, match="typed"):
            fox().choose("training.seed")


class TestLayers:
    def test_where_a_value_comes_from(self) -> None:
        draft = fox().set("training.seed", "7")
        assert draft.origin("training.seed") == "yours"
        assert (
            draft.origin("optimizer.optimizer_type") == "preset"
            and draft.value("optimizer.optimizer_type") == "Prodigy"
        )
        assert draft.origin("caption.caption_extension") == "default"
        assert draft.changed() == ["model.pretrained_model_name_or_path", "dataset.train_data_dir", "training.seed"]

    def test_what_the_preset_says_anyway_is_not_written_down(self) -> None:
        draft = fox()
        assert draft.set("optimizer.optimizer_type", "Prodigy") is draft
        assert draft.set("training.seed", "7").set("training.seed", "42").document == draft.document

    def test_one_length_replaces_the_others(self) -> None:
        draft = fox().set("training.max_train_epochs", "12")
        assert draft.value("training.exposure") is None and draft.origin("training.exposure") == "yours"
        assert draft.config is not None and draft.config.training.max_train_epochs == 12
        exposed = draft.set("training.exposure", "80")
        assert exposed.value("training.max_train_epochs") is None
        assert exposed.config is not None and exposed.config.target_exposure == 80
        assert exposed.reset("training.max_train_epochs").value("training.exposure") == 100

    def test_nothing_takes_back_what_a_preset_sets_where_a_file_has_a_word_for_it(self) -> None:
        draft = fox()
        assert draft.set("loss.min_snr_gamma", "").value("loss.min_snr_gamma") is None
        assert draft.set("network.network_dim", "").value("network.network_dim") == draft.value("network.network_dim")
        with pytest.raises(LoratoryError, match="takes it back"):
            fox("character-adamw").set("optimizer.unet_lr", "")

    def test_defaults_that_follow_others_are_shown(self) -> None:
        assert fox(None).set("network.network_dim", "8").value("network.network_alpha") == 8

    def test_problems_stand_at_their_settings(self) -> None:
        draft = new_draft(None, HERE, {}).set("network.conv_dim", "4")
        assert [problem.key for problem in draft.problems][:1] == ["model.pretrained_model_name_or_path"]
        draft = fox(None).set("network.conv_dim", "4").set("training.full_fp16", "true")
        assert [problem.key for problem in draft.problems] == ["network.conv_dim", "training.full_fp16"]
        assert draft.config is None
        without_alpha = fox().set("network.network_type", "ia3")
        assert [problem.key for problem in without_alpha.problems] == ["network.network_alpha"]

    def test_a_preset_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(LoratoryError, match="no preset"):
            fox().set("preset", "charcter-prodigy")

    def test_a_preset_is_compared_with_another(self) -> None:
        found = {each.key: each for each in fox().difference("character-adamw")}
        assert (
            found["optimizer.optimizer_type"].mine == "Prodigy" and found["optimizer.optimizer_type"].other == "AdamW"
        )
        assert not {each.key for each in fox().difference("character-prodigy")} - set(NEEDED)

    def test_tables_in_lists_are_kept_and_not_edited(self, tmp_path: Path) -> None:
        path = tmp_path / "subsets.toml"
        subsets = "".join(f'[[dataset.subsets]]\nimage_dir = "{name}"\n' for name in "ab")
        path.write_text(f'[model]\npretrained_model_name_or_path = "nano"\n{subsets}')
        draft = open_draft(path).set("training.seed", "7")
        assert draft.shown(SUBSETS) == "2 tables" and draft.keeps_comments
        assert parse_toml(draft.toml(), path)["dataset"]["subsets"] == [{"image_dir": "a"}, {"image_dir": "b"}]
        with pytest.raises(LoratoryError, match="not edited here"):
            draft.set(SUBSETS, "[]")


class TestTheWayBack:
    @given(EDITS, st.sampled_from([None, *PRESETS]))
    @settings(max_examples=30, deadline=None)
    def test_any_edits_undone_give_the_draft_back(self, edits: list[tuple[str, str, str]], preset: str | None) -> None:
        draft = fox(preset)
        after = edited(draft, edits)
        back = after
        for _ in after.past:
            back = back.undo()
        assert back == draft and back.toml() == draft.toml() and back.undo() is back
        forth = back
        for _ in after.past:
            forth = forth.redo()
        assert forth == after and forth.redo() is forth

    @given(EDITS, st.sampled_from([None, *PRESETS]))
    @settings(max_examples=30, deadline=None)
    def test_the_file_read_again_is_the_same_configuration(
        self, edits: list[tuple[str, str, str]], preset: str | None
    ) -> None:
        draft = edited(fox(preset), edits)
        again = Draft(draft.folder, parse_toml(draft.toml(), HERE))
        assert again.config == draft.config
        assert all(same(again.value(key), draft.value(key)) for key in FIELDS)

    @given(EDITS)
    @settings(max_examples=30, deadline=None)
    def test_an_opened_file_keeps_its_comments_through_any_edits(self, edits: list[tuple[str, str, str]]) -> None:
        text = (
            '# mine\npreset = "character-prodigy" # the easy one\n\n'
            '[model] # base\npretrained_model_name_or_path = "nano"\n\n# pictures\n[dataset]\ntrain_data_dir = "set"\n'
            '\n[sample]\nprompts = [\n  "a # fox", # one\n  "[b]",\n]\n'
        )
        draft = edited(Draft(HERE, parse_toml(text, HERE), None, text), edits)
        new, is_kept = rewritten(text, draft.document)
        assert is_kept and "# mine" in new and "# pictures" in new and "[model] # base" in new
        wanted = {name: table for name, table in draft.document.items() if table != {}}
        assert {name: table for name, table in parse_toml(new, HERE).items() if table != {}} == wanted

    def test_a_form_that_lines_cannot_follow_is_written_anew_and_says_so(self) -> None:
        text = 'model.pretrained_model_name_or_path = "nano" # dotted\n'
        new, is_kept = rewritten(text, {"model": {"pretrained_model_name_or_path": "other"}})
        assert not is_kept and parse_toml(new, HERE) == {"model": {"pretrained_model_name_or_path": "other"}}


class TestFiles:
    @pytest.mark.parametrize("preset", list_presets(), ids=PRESETS)
    def test_every_preset_comes_back_as_it_is(self, preset: Any) -> None:
        draft = open_draft(preset.path)
        assert draft.toml() == preset.path.read_text() and draft.is_saved
        assert parse_toml(dumped(draft.document), HERE) == draft.document
        assert {key for key, _ in draft.problems} <= {*NEEDED, "network.network_type"}

    @pytest.mark.parametrize("preset", PRESETS)
    def test_a_runs_record_comes_down_to_its_preset(self, preset: str, tmp_path: Path) -> None:
        config = fox(preset).set("training.seed", "7").config
        assert config is not None
        (tmp_path / "config.toml").write_text(dump_config(config))
        draft = open_draft(tmp_path / "config.toml")
        assert draft.preset == preset and "preset" in draft.document and draft.path is None
        assert draft.config == config
        assert len(draft.changed()) <= 6, draft.changed()

    def test_a_runs_record_without_a_preset_is_no_file_to_write_over(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_text('[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n')
        path.write_text(dump_config(load_config(path)))
        assert open_draft(path).path == path
        (tmp_path / "events.jsonl").touch()
        draft = open_draft(path)
        assert draft.path is None and draft.preset is None and not draft.is_saved
        assert draft.config is not None and draft.config.output == load_config(path).output
        assert draft.origin("network.network_dim") == "default"

    def test_a_record_whose_preset_has_changed_is_written_out(self, tmp_path: Path) -> None:
        own = saved_preset(fox("character-adamw"), "mine")
        config = fox("mine").config
        assert config is not None
        (tmp_path / "config.toml").write_text(dump_config(config))
        own.write_text(own.read_text() + "\n[noise]\nadaptive_noise_scale = 0.1\nnoise_offset = 0.1\n")
        own.write_text(own.read_text().replace("[optimizer]", "[optimizer]\nlr_scheduler_timescale = 3"))
        draft = open_draft(tmp_path / "config.toml")
        assert "other things now" in draft.remark and draft.config == config

    def test_writing_again_keeps_what_another_program_wrote(self, tmp_path: Path) -> None:
        path = tmp_path / "fox.toml"
        draft = saved(fox(), path)
        assert draft.is_saved and load_config(path).training.seed == 42
        draft = saved(draft.set("training.seed", "7"), path)
        path.write_text("# another program\n")
        with pytest.raises(Occupied, match="changed by another program"):
            saved(draft.set("training.seed", "8"), path)
        assert path.read_text() == "# another program\n"
        assert saved(draft.set("training.seed", "8"), path, replacing=True).is_saved
        assert load_config(path).training.seed == 8
        with pytest.raises(Occupied, match="exists already"):
            saved(fox(), path)

    def test_relative_paths_keep_their_meaning_in_another_folder(self, tmp_path: Path) -> None:
        draft = new_draft(None, tmp_path / "a", NEEDED | {"model.base_weights": ["w.safetensors", "/x/y.safetensors"]})
        before = draft.config
        moved = saved(draft, tmp_path / "b" / "fox.toml")
        inside = saved(draft, tmp_path / "fox.toml")
        assert before is not None and moved.config is not None
        assert moved.config.dataset == before.dataset and moved.config.model == before.model
        assert inside.value("dataset.train_data_dir") == "./a/set"

    def test_an_own_preset_stands_alone_and_leaves_out_what_belongs_to_one_set(self) -> None:
        draft = fox().set("network.network_dim", "16").set("output.output_name", "fox")
        path = saved_preset(draft, "mine")
        document = parse_toml(path.read_text(), path)
        assert "preset" not in document and "dataset" in document and "train_data_dir" not in document["dataset"]
        assert path.read_text().startswith("# mine, from character-prodigy\n")
        taken = fox("mine")
        assert taken.value("network.network_dim") == 16 and taken.value("optimizer.optimizer_type") == "Prodigy"
        with pytest.raises(Occupied):
            saved_preset(draft, "mine")
        saved_preset(taken.set("network.network_dim", "8"), "mine", replacing=True)
        assert fox("mine").value("network.network_dim") == 8
        for name in ("", "a/b", ".x", "a\nb"):
            with pytest.raises(LoratoryError):
                saved_preset(draft, name)

    def test_nothing_is_lost_where_a_file_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(LoratoryError, match="Cannot write"):
            saved(fox(), tmp_path / "file" / "fox.toml")
        assert (tmp_path / "file").read_text() == "x"
