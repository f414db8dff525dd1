"""The plan pane under the pilot: a configuration written, kept, judged, planned and started."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

import fake_planner
from editor_app import make_pictures
from loratory.config.draft_files import new_draft, open_draft
from loratory.config.draft_problems import named_setting
from loratory.config.fields import FIELDS
from loratory.config.load import load_config
from loratory.config.presets import own_folder
from loratory.errors import LoratoryError
from loratory.terminal.modes import Graphics
from loratory.tui.app import LoratoryApp
from loratory.tui.keymaps import Keymaps
from loratory.tui.keys import Keymap
from loratory.tui.plan import journal, planner
from loratory.tui.plan.actions import ACTIONS
from loratory.tui.plan.completion import completed
from loratory.tui.plan.findings import PlanFinding
from loratory.tui.plan.help import help_lines
from loratory.tui.plan.report import plan_lines
from loratory.tui.plan.rows import HEAD, UNREAD, form_rows
from loratory.tui.plan.screen import PlanScreen
from loratory.tui.project import Project
from loratory.tui.text import ASCII, UNICODE, Glyphs
from loratory.tui.widgets.prompt import Prompt

_WAIT_S = 20.0


class Person:
    """Somebody at the plan pane."""

    def __init__(self, app: LoratoryApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def pane(self) -> PlanScreen:
        pane = self.app.panes["plan"]
        assert isinstance(pane, PlanScreen)
        return pane

    async def type(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def write(self, text: str) -> None:
        await self.pilot.press(*["space" if character == " " else character for character in text])

    async def answer(self, text: str) -> None:
        """Replaces what the prompt holds, and answers."""
        self.app.screen.query_one(Prompt).line.value = text
        await self.pilot.press("enter")

    async def go(self, key: str) -> None:
        """To a setting."""
        await self.pilot.press("g", "g")
        self.pane.browsing.go_to(key)
        self.pane.look()

    async def set(self, key: str, text: str) -> None:
        await self.go(key)
        await self.pilot.press("e")
        await self.answer(text)

    async def until(self, condition: Callable[[], object]) -> None:
        end = asyncio.get_running_loop().time() + _WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < end, (self.pane.message, self.shown())
            await asyncio.sleep(0.005)
        await self.pilot.pause()

    async def planned(self) -> None:
        await self.until(lambda: not self.pane.planning.is_busy)

    def shown(self) -> str:
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
        return "\n".join(strip.text[:width].rstrip() for strip in lines[:height])


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAKE_PLANNER_LOG", str(tmp_path / "asked"))
    monkeypatch.setattr(planner, "COMMAND", (sys.executable, str(Path(fake_planner.__file__))))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_pictures(tmp_path / "set" / "10_fox", {"a": "fox"})
    return Project(tmp_path, tmp_path / "runs", dataset=tmp_path / "set")


@asynccontextmanager
async def at(
    project: Project, size: tuple[int, int] = (80, 24), glyphs: Glyphs = UNICODE, **options: Any
) -> AsyncGenerator[Person]:
    app = LoratoryApp(None, Keymaps(None), Graphics("half"), glyphs, project=project, first="plan", **options)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            person = Person(app, pilot)
            await person.until(lambda: "plan" in app.panes and person.pane.is_mounted)
            await person.planned()
            yield person
    finally:
        app.close()


def with_person(
    work: Callable[[Person], Awaitable[None]], project: Project, size: tuple[int, int] = (80, 24), **options: Any
) -> None:
    async def scenario() -> None:
        async with at(project, size, **options) as person:
            await work(person)

    asyncio.run(scenario())


def test_keys_do_not_hide_each_other() -> None:
    keymap = Keymap(ACTIONS)
    sequences = [keys for action in ACTIONS for keys in action.keys]
    assert len(sequences) == len(set(sequences))
    assert not [keys for keys in sequences if keymap.is_prefix(keys)]


class TestForm:
    def test_a_new_draft_asks_for_the_base_model_and_is_planned_once_it_is_there(self, project: Project) -> None:
        async def work(person: Person) -> None:
            pane = person.pane
            assert pane.draft.preset == "character-prodigy" and pane.draft.value("dataset.train_data_dir") == "./set"
            assert "base model" in person.shown() and "(needed)" in person.shown() and "1 error" in person.shown()
            await person.type("S")
            assert "is required" in pane.message and pane.browsing.key == "model.pretrained_model_name_or_path"
            assert not (project.runs_dir).exists()
            await person.type("e")
            await person.write("nano")
            await person.type("enter")
            await person.planned()
            assert "1200 steps, 10 epochs" in person.shown() and not pane.draft.problems
            await person.type("tab")
            assert "10_[/b]fox" in person.shown() and "the guide: about 100" in person.shown()
            await person.type("G")
            assert "alpha 1 / rank 32 = scale 0.0312" in person.shown() and "3.4 MB" in person.shown()
            assert "torch" not in sys.modules or "loratory.training.plan" in sys.modules

        with_person(work, project)

    def test_a_wrong_value_is_told_and_stays_in_the_prompt(self, project: Project) -> None:
        async def work(person: Person) -> None:
            await person.set("training.seed", "x[/b]")
            assert "whole number" in person.pane.message and person.pane.is_asking and "x[/b]" in person.shown()
            await person.answer("7")
            assert person.pane.draft.value("training.seed") == 7 and not person.pane.is_asking
            await person.type("e", "9", "escape")
            assert person.pane.draft.value("training.seed") == 7

        with_person(work, project)

    def test_choices_undo_reset_and_the_changed_view(self, project: Project) -> None:
        async def work(person: Person) -> None:
            pane = person.pane
            await person.go("training.gradient_checkpointing")
            await person.type("space")
            assert pane.draft.value("training.gradient_checkpointing") is True
            await person.type("u")
            assert pane.draft.value("training.gradient_checkpointing") is False
            await person.type("U", "c")
            assert "gradient_checkpointing" in person.shown() and "mixed_precision" not in person.shown()
            await person.type("x")
            assert pane.draft.value("training.gradient_checkpointing") is False
            assert "gradient_checkpointing" in person.shown()
            await person.type("c")
            await person.go("training.mixed_precision")
            before = pane.draft.value("training.mixed_precision")
            await person.type("l", "h")
            assert pane.draft.value("training.mixed_precision") == before
            await person.go("training.seed")
            await person.type("space")
            assert "typed" in pane.message

        with_person(work, project)

    def test_search_findings_and_tables(self, project: Project) -> None:
        async def work(person: Person) -> None:
            pane = person.pane
            await person.type("/")
            await person.write("velocity")
            await person.type("enter")
            assert pane.browsing.key == "model.v_parameterization"
            await person.type("n", "N")
            assert pane.browsing.key == "model.v_parameterization"
            await person.type("/")
            await person.answer("no such thing")
            assert "No setting has" in pane.message and pane.is_asking
            await person.type("escape", "g", "g", "]")
            assert pane.browsing.key == "model.family"
            await person.type("}", "[")
            assert pane.browsing.key == "model.family"
            await person.set("network.conv_dim", "4")
            await person.type("g", "g", "i")
            assert pane.browsing.key == "network.conv_dim" and "error, " in pane.message
            assert '"locon" is meant' in person.shown()
            await person.type("G")
            assert pane.browsing.key == list(FIELDS)[-1]

        with_person(work, project)

    def test_a_search_goes_to_names_before_explanations_and_begins_empty(self, project: Project) -> None:
        async def work(person: Person) -> None:
            browsing = person.pane.browsing
            for typed, key in (("learning rate", "optimizer.learning_rate"), ("exposure", "training.exposure")):
                await person.type("/")
                await person.write(typed)
                await person.type("enter")
                assert browsing.key == key and f"{typed}: 1 of " in person.pane.message
            await person.type("n")
            assert browsing.key != "training.exposure" and "exposure: 2 of " in person.pane.message
            await person.type("N", "N")  # round, from the first to the last
            assert "exposure" in (FIELDS[browsing.key].description or "").casefold()

        with_person(work, project)

    def test_an_error_of_the_plan_stands_at_the_setting_it_names(self, project: Project) -> None:
        assert named_setting("There is no model x in /a. Correct model.pretrained_model_name_or_path.") in HEAD
        assert named_setting("e.g. this.or_that") == ""

    def test_what_a_length_takes_the_place_of_is_told(self, project: Project) -> None:
        async def work(person: Person) -> None:
            await person.set("training.max_train_steps", "200")
            assert "training.exposure is left out now: training.max_train_steps takes the place" in person.pane.message
            await person.set("training.max_train_steps", "300")
            assert person.pane.message == ""

        with_person(work, project)

    def test_the_default_of_alpha_is_the_rank_that_is_set(self, project: Project) -> None:
        async def work(person: Person) -> None:
            for key, text in (("preset", ""), ("network.network_dim", "4"), ("network.network_alpha", "2")):
                await person.set(key, text)
            await person.go("network.network_alpha")
            assert "by default: 4.0" in person.shown()

        with_person(work, project)

    def test_a_run_that_would_replace_files_is_not_started(self, project: Project, tmp_path: Path) -> None:
        async def work(person: Person) -> None:
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.set("output.output_name", "mine")
            (tmp_path / "output").mkdir()
            (tmp_path / "output" / "mine-000002.safetensors").write_bytes(b"")
            await person.planned()
            for key in ("S", "D"):
                await person.type(key)
                assert "mine-000002.safetensors exists already" in person.pane.message
                assert person.pane.browsing.key == "output.output_name" and not project.runs_dir.exists()

        with_person(work, project)

    def test_tab_completes_paths_and_choices(self, project: Project, tmp_path: Path) -> None:
        async def work(person: Person) -> None:
            (tmp_path / "settled").mkdir()
            await person.go("dataset.reg_data_dir")
            await person.type("e")
            await person.write("s")
            await person.type("tab")
            assert "set/  settled/" in person.pane.message
            await person.write("t")
            await person.type("l", "backspace", "l", "tab", "enter")
            assert person.pane.draft.value("dataset.reg_data_dir") == "settled/"

        with_person(work, project)
        assert completed("network.network_type", "lok", tmp_path) == ("lokr", ["lokr"])
        assert completed("training.seed", "1", tmp_path) == ("1", [])
        assert completed("", f"{tmp_path}/nothing/x", tmp_path)[1] == []

    def test_a_refused_plan_is_an_error_and_a_dead_planner_is_told(self, project: Project) -> None:
        async def work(person: Person) -> None:
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.set("output.training_comment", "wrong")
            await person.planned()
            await person.type("S")
            assert "no concept folder found" in person.pane.message and not project.runs_dir.exists()
            assert person.pane.browsing.key == "dataset.train_data_dir"
            await person.set("output.training_comment", "die")
            await person.planned()
            assert any("broke off" in each.message for each in person.pane.findings)
            await person.type("m")
            assert "broke off" in person.pane.message

        with_person(work, project)

    def test_measuring(self, project: Project) -> None:
        async def work(person: Person) -> None:
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.planned()
            await person.type("m")
            await person.until(lambda: "measured" in person.pane.plan)
            assert "time and memory stand" in person.pane.message
            await person.type("tab", "G")
            assert "10 min 04 s in all" in person.shown()
            await person.set("output.training_comment", "slow")
            await person.type("m")
            await person.until(lambda: person.pane.planning.measures)
            await person.type("m")
            await person.until(lambda: not person.pane.planning.measures)
            assert "ended" in person.pane.message and "measured" not in person.pane.plan

        with_person(work, project)


class TestFiles:
    def test_writing_opening_and_what_another_program_wrote(self, project: Project, tmp_path: Path) -> None:
        async def work(person: Person) -> None:
            pane, path = person.pane, tmp_path / "fox.toml"
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.type("w")
            await person.answer(str(tmp_path / "fox"))
            assert load_config(path).preset == "character-prodigy" and "wrote" in pane.message
            assert pane.draft.is_saved and not journal.all_kept() and " written" in person.shown()
            await person.set("training.seed", "7")
            assert "not written" in person.shown()
            path.write_text("# mine\n")
            await person.type("w", "enter")
            assert "changed by another program" in pane.message and path.read_text() == "# mine\n"
            await person.type("n")
            assert path.read_text() == "# mine\n"
            await person.type("w", "enter", "y")
            assert load_config(path).training.seed == 7

        with_person(work, project)

    def test_what_was_not_written_is_there_again(self, project: Project, tmp_path: Path) -> None:
        path = tmp_path / "fox.toml"
        path.write_text('# mine\npreset = "character-adamw"\n[model]\npretrained_model_name_or_path = "nano"\n')
        opened = Project(tmp_path, tmp_path / "runs", config=path)

        async def change(person: Person) -> None:
            await person.set("training.seed", "7")

        async def look(person: Person) -> None:
            pane = person.pane
            assert pane.draft.value("training.seed") == 7 and "here again" in pane.message
            await person.type("u")
            assert pane.draft.value("training.seed") == 42 and pane.draft.is_saved and not journal.all_kept()

        with_person(change, opened)
        assert len(journal.all_kept()) == 1
        with_person(look, opened)
        assert path.read_text().startswith("# mine\n")

    def test_the_list_leads_to_presets_files_runs_and_kept_drafts(self, project: Project, tmp_path: Path) -> None:
        (tmp_path / "other.toml").write_text('preset = "locon"\n')

        async def work(person: Person) -> None:
            pane = person.pane
            await person.set("training.seed", "7")
            await person.type("o", "slash")
            await person.write("preset locon")
            await person.type("enter", "enter")
            await person.until(lambda: person.app.screen is pane)
            assert pane.draft.preset == "locon" and pane.draft.value("training.seed") == 7
            await person.type("o", "slash")
            await person.write("other.toml")
            await person.type("enter", "enter")
            await person.until(lambda: pane.draft.path == tmp_path / "other.toml")
            assert "is kept" in pane.message
            await person.type("o", "slash")
            await person.write("not written")
            await person.type("enter", "enter")
            await person.until(lambda: pane.draft.path is None)
            assert pane.draft.value("training.seed") == 7 and pane.draft.preset == "locon"
            person.app.plan_config(tmp_path / "other.toml")
            await person.until(lambda: pane.draft.path == tmp_path / "other.toml")
            (tmp_path / "bad.toml").write_text("[[[")
            person.app.plan_config(tmp_path / "bad.toml")
            await person.until(lambda: "line 1" in pane.message)
            assert pane.draft.path == tmp_path / "other.toml"

        with_person(work, project)

    def test_an_own_preset_a_difference_and_an_export(self, project: Project, tmp_path: Path) -> None:
        async def work(person: Person) -> None:
            pane = person.pane
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.set("network.network_dim", "16")
            await person.planned()
            await person.type("W")
            await person.answer("mine")
            assert (own_folder() / "mine.toml").is_file() and "without" in pane.message
            await person.type("W")
            await person.answer("mine")
            assert "already" in pane.message
            await person.type("escape", "equals_sign")
            await person.until(lambda: "network.network_dim" in person.shown())
            assert "-> 16" in person.shown()
            await person.type("escape", "K", "enter")
            await person.until(lambda: person.app.screen is not pane)
            assert "accelerate launch" in person.shown()
            assert (tmp_path / "sd-scripts" / "set.sd-scripts.toml").is_file()
            await person.type("escape", "K", "enter")
            assert "exists already" in pane.message

        with_person(work, project)


class TestRuns:
    def test_start_hands_the_settings_over(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[Any] = []

        class Run:
            name = "set-1"

        def start(config: Any) -> Run:
            started.append(config)
            return Run()

        def refuse(config: Any) -> Run:
            raise LoratoryError("one run at a time")

        async def work(person: Person) -> None:
            monkeypatch.setattr(person.app, "start", start)
            monkeypatch.setattr(person.app, "start_detached", refuse)
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.set("training.exposure", "80")
            await person.type("S")
            assert started[0].training.exposure == 80 and started[0].output.runs_dir == project.runs_dir
            await person.type("D")
            assert person.pane.message == "one run at a time"

        with_person(work, project)


def test_the_help_of_the_network_type_tells_what_the_chosen_one_is_good_for(tmp_path: Path) -> None:
    key = "network.network_type"
    draft = new_draft("locon", tmp_path, {})
    for chosen, word in (("locon", "convolutions"), ("ia3", "very small file"), ("dylora", "batch size 1")):
        lines = help_lines(draft.set(key, chosen), key, [], 200, UNICODE)
        text = " ".join(line.plain.strip() for line in lines)
        assert f"{chosen}: " in text and word in text
    assert "General use:" in text and "several concepts:" in text


def test_what_the_network_type_does_not_read_is_told(tmp_path: Path) -> None:
    draft = new_draft("locon", tmp_path, {})
    for chosen, unread, read in (("lokr", "block_size", "factor"), ("ia3", "network_dim", "module_dropout")):
        draft = draft.set("network.network_type", chosen)
        rows = {row.key: row for row in form_rows(draft, {})}
        assert rows[f"network.{unread}"].origin == UNREAD and rows[f"network.{read}"].origin != UNREAD
        told, silent = (
            " ".join(line.plain.strip() for line in help_lines(draft, f"network.{key}", [], 200, UNICODE))
            for key in (unread, read)
        )
        said = f'Does nothing with network_type = "{chosen}"'
        assert said in told and said not in silent
    finding = PlanFinding("network.network_dim", "error", "does nothing")
    lines = help_lines(draft, "network.network_dim", [finding], 200, UNICODE)
    assert " ".join(line.plain for line in lines).casefold().count("does nothing") == 1


class TestLooks:
    @pytest.mark.parametrize("size", [(20, 5), (80, 24), (160, 48)])
    @pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
    def test_every_size_shows_something_and_nothing_breaks(
        self, project: Project, size: tuple[int, int], glyphs: Glyphs
    ) -> None:
        async def work(person: Person) -> None:
            await person.set("model.pretrained_model_name_or_path", "nano")
            await person.set("output.metadata_title", "[/b] [@click=app.quit]x[/] 🦊\u202e")
            await person.planned()
            await person.type("tab", "j", "k", "tab", "G", "question_mark")
            await person.type("escape", "g", "g")
            shown = person.shown()
            assert shown.strip() and (glyphs is UNICODE or shown.replace("🦊", "").isascii())
            if size[0] >= 120:
                assert "1200 steps in all" in shown and "base model" in shown

        with_person(work, project, size, glyphs=glyphs)

    def test_a_plan_fits_its_width(self, project: Project, tmp_path: Path) -> None:
        path = tmp_path / "fox.toml"
        path.write_text('[model]\npretrained_model_name_or_path = "nano"\n[dataset]\ntrain_data_dir = "set"\n')
        config = open_draft(path).config
        assert config is not None
        plan = {**fake_planner.PLAN, "measured": fake_planner.MEASURED}
        for width in (54, 79, 88, 200):
            lines = plan_lines(plan, config, width, UNICODE)
            assert all(line.cell_length <= width for line in lines), [line.plain for line in lines]
