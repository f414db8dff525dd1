"""What the plan pane does with files and runs."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.config.draft import Draft, spoken_value
from loratory.config.draft_files import OF_ONE_RUN, Occupied, open_draft, saved, saved_preset
from loratory.config.presets import Preset, list_presets
from loratory.config.toml_files import expanded
from loratory.errors import LoratoryError
from loratory.runs.foreign import refuse_foreign_files
from loratory.tui.plan import journal
from loratory.tui.plan.opening import configurations
from loratory.tui.text import fitted, plain, printable
from loratory.tui.told import Told

if TYPE_CHECKING:
    from loratory.tui.plan.screen import PlanScreen
    from loratory.tui.screens.overlays import Choice, TableRow

_Opened = Callable[[], object]


def file_verbs(screen: "PlanScreen") -> dict[str, Callable[[], object]]:
    """The actions on files and runs, by their ids."""
    return {
        "difference": lambda: _show_difference(screen, screen.draft.preset),
        "difference-any": lambda: _choose_difference(screen),
        "open": lambda: _choose_draft(screen),
        "write": lambda: _ask_path(screen),
        "write-preset": lambda: _ask_preset(screen),
        "export": lambda: _ask_export(screen),
        "start": lambda: _start(screen, detached=False),
        "start-detached": lambda: _start(screen, detached=True),
    }


# --- runs ---


def _start(screen: "PlanScreen", *, detached: bool) -> None:
    screen.refuse_errors()
    config = screen.draft.config
    if config is None:  # refuse_errors names what is wrong
        raise LoratoryError("Something is wrong with these settings.")
    try:
        refuse_foreign_files(config)
    except LoratoryError:
        screen.browsing.go_to("output.output_name")
        raise
    start = screen.panes.start_detached if detached else screen.panes.start
    run = start(config)
    screen.tell(Told(f"{run.name} was started"))


# --- writing ---


def _ask_path(screen: "PlanScreen") -> None:
    draft = screen.draft
    name = draft.value("output.output_name")
    path = draft.path or screen.panes.project.directory.absolute() / f"{name}.toml"

    def answered(text: str) -> None:
        typed = screen.draft.folder / expanded(text.strip())
        if not text.strip():
            raise LoratoryError("A configuration needs a file name.")
        if typed.is_dir():
            raise LoratoryError(f"{typed} is a folder: name a file in it.")
        _write(screen, typed if typed.suffix == ".toml" else typed.with_name(f"{typed.name}.toml"))

    screen.ask_for("write to", "", str(path), answered)


def _write(screen: "PlanScreen", path: Path, *, replacing: bool = False) -> None:
    draft = screen.draft
    loses = not draft.keeps_comments and path.absolute() == draft.path
    try:
        written = saved(draft, path, replacing=replacing)
    except Occupied as occupied:
        screen.confirm(f"{occupied.message} Replace it?", lambda: _write(screen, path, replacing=True))
        return
    journal.forget(draft, screen.origin)
    screen.take(written, f"wrote {path}" + ("; its comments could not be kept" if loses else ""))


def _ask_preset(screen: "PlanScreen") -> None:
    screen.ask_for("save as preset", "preset", "", lambda name: _write_preset(screen, name))


def _write_preset(screen: "PlanScreen", name: str, *, replacing: bool = False) -> None:
    try:
        path = saved_preset(screen.draft, name, replacing=replacing)
    except Occupied as occupied:
        screen.confirm(f"{occupied.message} Replace it?", lambda: _write_preset(screen, name, replacing=True))
        return
    left = [key for key in OF_ONE_RUN if screen.draft.origin(key) == "yours"]
    told = f"; without {', '.join(left)}, which belong to this set" if left else ""
    screen.tell(Told(f"saved the preset {path.stem}{told}"))


# --- kohya ---


def _ask_export(screen: "PlanScreen") -> None:
    screen.refuse_errors()
    if not screen.plan:
        raise LoratoryError("The files for sd-scripts need the plan, which is still being made.")
    folder = screen.panes.project.directory.absolute() / "sd-scripts"
    screen.ask_for("write for sd-scripts, in folder", "", str(folder), lambda text: _export(screen, text))


def _export(screen: "PlanScreen", text: str) -> None:
    from loratory.tui.plan.exporting import command_of, exported, files_of

    config = screen.draft.config
    if config is None or not screen.plan or not text.strip():
        raise LoratoryError("A folder is needed, and settings without an error.")
    folder = (screen.draft.folder / expanded(text.strip())).absolute()
    stem = config.output.output_name
    export = exported(config, screen.plan)
    files = files_of(export, folder, stem)
    said = [
        *(str(path) for path in files),
        "",
        command_of(export, folder, stem),
        "",
        *(export.remarks or ["Every setting has its counterpart there."]),
    ]
    there = [path for path in files if path.exists()]

    def write() -> None:
        from loratory.tui.plan.exporting import write_files

        write_files(files)
        _read(screen, f"Written for {export.script}.py", said)

    if there:
        screen.confirm(f"{there[0]} exists already. Replace it?", write)
    else:
        write()


# --- differences ---


def _show_difference(screen: "PlanScreen", preset: str | None) -> None:
    draft = screen.draft
    if preset is None:
        raise LoratoryError("This starts from no preset; g = compares it with any.")
    found = draft.difference(preset)
    width = max((len(each.key) for each in found), default=0)
    lines = [f"{each.key:{width}}  {spoken_value(each.other)} -> {spoken_value(each.mine)}" for each in found]
    _read(screen, f"What differs from {preset}: its value -> this one", lines or ["nothing"])


def _choose_difference(screen: "PlanScreen") -> None:
    from loratory.tui.screens.overlays import TableRow

    rows: list[TableRow[_Opened]] = [
        TableRow(_preset_line(screen, "", preset), partial(_show_difference, screen, preset.name))
        for preset in list_presets()
    ]
    _choose(screen, "Compare with a preset", rows)


def _read(screen: "PlanScreen", title: str, lines: list[str]) -> None:
    from loratory.tui.screens.overlays import TextScreen

    screen.app.push_screen(TextScreen(printable(title), [plain(line) for line in lines]))


# --- opening ---


def _choose_draft(screen: "PlanScreen") -> None:
    from loratory.tui.screens.overlays import TableRow

    project = screen.panes.project
    rows: list[TableRow[_Opened]] = [TableRow("a path to type", partial(_ask_open, screen))]
    for kept in journal.all_kept():
        when = datetime.fromtimestamp(kept.saved_s).strftime("%d %b %H:%M")
        name = kept.draft.path or f"a new draft in {kept.draft.folder}"
        rows.append(
            TableRow(f"not written, {when}: {name}", partial(_open, screen, kept.draft, f"{name}, {when}", kept.origin))
        )
    for path in configurations(project):
        is_run = path.name == "config.toml" and path.parent.parent == project.runs_dir
        text = f"run     {path.parent.name}" if is_run else f"file    {path.name}"
        rows.append(TableRow(text, partial(_open_file, screen, path)))
    for preset in list_presets():
        rows.append(TableRow(_preset_line(screen, "preset  ", preset), partial(_take_preset, screen, preset.name)))
    _choose(screen, "Open a configuration, or start from a preset", rows)


def _preset_line(screen: "PlanScreen", before: str, preset: Preset) -> str:
    """A line of a list, cut where the screen ends: what describes a preset says the most at its beginning."""
    line = f"{before}{preset.name:17} {preset.description}"
    return fitted(line, max(20, screen.size.width - 4), screen.glyphs.ellipsis).rstrip()


def _choose(screen: "PlanScreen", title: str, rows: "list[TableRow[_Opened]]") -> None:
    from loratory.tui.screens.overlays import TableScreen

    def chosen(choice: "Choice[_Opened] | None") -> None:
        if choice is not None:
            screen.attempt(choice.value)

    screen.app.push_screen(TableScreen(title, rows, {"enter": "take"}, "nothing here"), chosen)


def _ask_open(screen: "PlanScreen") -> None:
    folder = f"{screen.panes.project.directory.absolute()}/"
    screen.ask_for("open", "", folder, lambda text: _open_file(screen, screen.draft.folder / expanded(text.strip())))


def _open_file(screen: "PlanScreen", path: Path) -> None:
    _open(screen, open_draft(path), str(path), str(path))


def _open(screen: "PlanScreen", draft: Draft, name: str, origin: str) -> None:
    left = "; the draft before it is kept, under o" if screen.draft.past and not screen.draft.is_saved else ""
    screen.open(draft, Told(f"opened {name}{left}"), origin)


def _take_preset(screen: "PlanScreen", name: str) -> None:
    screen.take(screen.draft.put("preset", name), f"starts from {name} now; what was changed here stays")
