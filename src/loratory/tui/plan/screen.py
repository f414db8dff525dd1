"""The plan pane: the settings as a form, what they come to beside it, and the way into a run."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from loratory.config.draft import Draft
from loratory.config.fields import FIELDS
from loratory.config.lint import Facts
from loratory.errors import LoratoryError
from loratory.training.plan_report import facts_from
from loratory.tui.editor import Told
from loratory.tui.pane import Pane
from loratory.tui.plan import journal
from loratory.tui.plan.completion import completed
from loratory.tui.plan.findings import PlanFinding, counted, findings_of, worst
from loratory.tui.plan.form import Form, Lines
from loratory.tui.plan.help import help_lines
from loratory.tui.plan.opening import first_draft
from loratory.tui.plan.planner import Answer, Planner
from loratory.tui.plan.report import finding_lines, plan_lines, summary
from loratory.tui.plan.rows import Row, form_rows, matches, moved, place_of, step, table_start
from loratory.tui.plan.verbs import file_verbs
from loratory.tui.text import fitted, plain
from loratory.tui.views import frame_line
from loratory.tui.widgets.prompt import Prompt, PromptLine

_SOURCES = ("model.", "dataset.", "caption.", "noise.zero_terminal_snr")
_WIDE = 120

_HELP = """\
The form holds every setting of a configuration. yours and preset say where a
value comes from; a dot marks what differs from the preset and the defaults.
x is an error, ! a warning, i worth knowing: i leads from one to the next.
The plan is made anew after each change, in a process of its own. What is
written here is kept until it is saved with w, also when the program ends.
"""


class PlanScreen(Pane):
    """A draft of a configuration, and its plan."""

    CSS_PATH = "plan.tcss"
    name_of_pane = "plan"

    def body(self) -> ComposeResult:
        with Vertical():
            yield Static("", id="plan-status", markup=False)
            with Horizontal(id="plan-main"):
                with Vertical(id="plan-left"):
                    yield Form(self.glyphs, id="plan-form")
                    yield Static("", id="plan-help", markup=False)
                yield Lines(id="plan-report")

    def begin(self) -> None:
        self._own_loop = asyncio.get_running_loop()
        self._is_over = False
        self._is_in_plan = False
        self._only_changed: frozenset[str] | None = None
        self._searched = ""
        self._cursor = 0
        self._waits = self._measuring = ""
        self._answer: Answer | None = None
        self._measured: Answer | None = None
        self._question: Callable[[], object] | None = None
        self._asked_key = ""
        self._asks_path = False
        self._rows: tuple[Row, ...] = ()
        self._findings: list[PlanFinding] = []
        self._told_of_journal = False
        self._planner = Planner(lambda a: self._deliver(lambda: self._planned(a)), self._note_waits)
        self._measurer = Planner(lambda a: self._deliver(lambda: self._tried(a)), self._note_measuring, measures=True)
        self.origin = str(self.panes.project.dataset or "")
        told = Told("")
        try:
            self.draft = first_draft(self.panes.project)
        except LoratoryError as error:
            self.draft = Draft(self.panes.project.directory.absolute(), {})
            told = Told.of(error)
        self.open(self.draft, told)

    def end(self) -> None:
        if not hasattr(self, "_planner"):  # never shown
            return
        self._is_over = True
        self._planner.end()
        self._measurer.end()

    def arrive(self, at: str | None) -> None:
        """A path that ends in .toml is opened; the draft before it is kept."""
        if at is not None and at.endswith(".toml"):
            from loratory.config.draft_files import open_draft

            path = Path(at)
            if path.absolute() != self.draft.path:
                try:
                    self.open(open_draft(path), Told(f"opened {path}"))
                except LoratoryError as error:
                    self.tell(Told.of(error))

    # --- the draft ---

    def open(self, draft: Draft, told: Told) -> None:
        """Works on another draft from here on; changes to it that were kept come back, and u takes them away."""
        kept = journal.kept_of(draft, self.origin)
        if kept is not None:
            told = Told(f"{_name(draft)}: your changes that were not written are here again; u takes them back")
        elif draft.remark and not told.text:
            told = Told(draft.remark)
        self._answer = self._measured = None
        self._only_changed = None
        self._set(kept or draft)
        self._cursor = moved(self._rows, 0, 0)
        self.tell(told)

    def take(self, draft: Draft, told: str = "") -> None:
        """The next draft: it is kept, shown and planned."""
        self.tell(Told(told))
        self._set(draft)

    def _set(self, draft: Draft) -> None:
        self.draft = draft
        try:
            journal.keep(draft, self.origin)
            self._told_of_journal = False
        except OSError as error:
            if not self._told_of_journal:  # once, not with every key
                self._told_of_journal = True
                self.tell(Told(f"Changes cannot be kept until they are written: {error.strerror}.", wrong=True))
        self._judge()
        if not draft.problems:
            self._planner.ask(draft.toml(), draft.place)
        else:
            self._planner.cancel()

    @property
    def key(self) -> str:
        """The setting at the cursor, "" where no row is shown."""
        return self._rows[self._cursor].key if self._cursor < len(self._rows) else ""

    @property
    def findings(self) -> list[PlanFinding]:
        return self._findings

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan of this very draft; {} while there is none."""
        answer = self._answer
        if answer is None or not answer.plan or not self._is_of(answer):
            return {}
        measured = self._measured
        more = {"measured": measured.plan["measured"]} if measured and measured.plan and self._is_of(measured) else {}
        return {**answer.plan, **more}

    def _is_of(self, answer: Answer) -> bool:
        return answer.toml == self.draft.toml() and answer.path == self.draft.place

    def _judge(self) -> None:
        """Finds anew what there is to say, and makes the rows."""
        answer, facts, error = self._answer, Facts(), ""
        if answer is not None and answer.facts:
            facts = facts_from(answer.facts)
        if answer is not None and self._is_of(answer):
            error = answer.error
        self._findings = findings_of(self.draft, facts, self.plan, error)
        key = self.key
        self._rows = form_rows(self.draft, worst(self._findings), only=self._shown_keys())
        place = place_of(self._rows, key) if key else None
        self._cursor = moved(self._rows, min(self._cursor, max(0, len(self._rows) - 1)), 0) if place is None else place

    def _shown_keys(self) -> Collection[str] | None:
        # What was changed when c was pressed stays in view, also once it is reset.
        return None if self._only_changed is None else self._only_changed | set(self.draft.changed())

    # --- the plan ---

    def _deliver(self, work: Callable[[], object]) -> None:
        """Hands work to the screen's thread and never waits; dropped when the screen is going."""
        if not self._is_over:
            try:
                self._own_loop.call_soon_threadsafe(lambda: None if self._is_over else work())
            except RuntimeError:  # the loop was closed meanwhile
                return

    def _planned(self, answer: Answer) -> None:
        if answer.facts or self._answer is None or self._is_of(answer):
            self._answer = answer
        self._judge()
        self.look()

    def _tried(self, answer: Answer) -> None:
        if answer.error:
            self.tell(Told(f"{answer.error} {answer.hint}".strip(), wrong=True))
            return
        self._measured = answer
        if self._is_of(answer):
            self.tell(Told("measured: time and memory stand at the end of the plan"))
        self.look()

    def _note_waits(self, what: str) -> None:
        def note() -> None:
            self._waits = what
            self.look()

        self._deliver(note)

    def _note_measuring(self, what: str) -> None:
        def note() -> None:
            self._measuring = what
            self.look()

        self._deliver(note)

    @property
    def is_busy(self) -> bool:
        """Whether a plan or a measurement is under way."""
        return self._planner.is_busy or self._measurer.is_busy or bool(self._waits or self._measuring)

    def _measure(self) -> None:
        if self._measurer.is_busy:
            self._measurer.cancel()
            self.tell(Told("the measurement was ended"))
            return
        self.refuse_errors()
        run = self.panes.own_run
        if run is not None and run.is_alive:
            raise LoratoryError("A run is being trained here: beside it, time and memory would be measured wrong.")
        self._measurer.ask(self.draft.toml(), self.draft.place)

    def refuse_errors(self) -> None:
        """Goes to the first error, and raises LoratoryError with it."""
        error = next((each for each in self._findings if each.severity == "error"), None)
        if error is not None:
            self._go_to(error.key)
            raise LoratoryError(error.message)

    # --- drawing ---

    def title_content(self, width: int) -> Content:
        return frame_line(_name(self.draft), "", self.name_of_pane, width, self.glyphs)

    def draw(self) -> None:
        width = self.size.width
        is_wide = width >= _WIDE
        self.set_class(self._is_in_plan, "-side")
        self.query_one("#plan-status", Static).update(self._status(width), layout=False)
        empty = "Nothing differs from the preset and the defaults; c shows all settings."
        self.query_one(Form).show(self._rows, self._cursor, is_active=not self._is_in_plan, empty=empty)
        left = 72 if is_wide else width
        shown = help_lines(self.draft, self.key, self._findings, left, self.glyphs) if self.key else []
        self.query_one("#plan-help", Static).update(Content("\n").join(shown), layout=False)
        if is_wide or self._is_in_plan:
            self.query_one(Lines).show(self._report(max(20, width - left - 1 if is_wide else width)))

    def _status(self, width: int) -> Content:
        draft = self.draft
        parts = [draft.preset or "no preset", "written" if draft.is_saved else "not written"]
        parts += [counted(self._findings)] if self._findings else []
        if self.plan:
            parts.append(summary(self.plan))
        doing = (
            f"measuring: {self._measuring}" if self._measuring else f"planning: {self._waits}" if self._waits else ""
        )
        parts += [f"{doing}{self.glyphs.ellipsis}"] if doing else []
        return plain(fitted(" " + f" {self.glyphs.dot} ".join(parts), width, self.glyphs.ellipsis))

    def _report(self, width: int) -> list[Content]:
        lines = [*finding_lines(self._findings, width), Content("")]
        config = self.draft.config
        if self.plan and config is not None:
            return lines + plan_lines(self.plan, config, width, self.glyphs)
        if any(each.severity == "error" for each in self._findings):
            return [*lines, plain(" no plan while there is an error", "$foreground-muted")]
        return [*lines, plain(f" planning{self.glyphs.ellipsis} {self._waits}", "$foreground-muted")]

    def help_lines(self) -> list[str]:
        return _HELP.splitlines()

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        page = max(1, self.query_one(Form).rows_shown - 1)
        return {
            "next": lambda: self._move(1),
            "previous": lambda: self._move(-1),
            "first": lambda: self._move(-len(FIELDS)),
            "last": lambda: self._move(len(FIELDS)),
            "page-down": lambda: self._move(page),
            "page-up": lambda: self._move(-page),
            "next-table": lambda: self._to(table_start(self._rows, self._cursor, 1)),
            "previous-table": lambda: self._to(table_start(self._rows, self._cursor, -1)),
            "side": self._turn,
            "next-finding": self._next_finding,
            "search": lambda: self.ask("search", self._searched, self._search),
            "next-hit": lambda: self._hit(1),
            "previous-hit": lambda: self._hit(-1),
            "edit": self._edit,
            "toggle": lambda: self.take(self.draft.choose(self._setting(), 1)),
            "untoggle": lambda: self.take(self.draft.choose(self._setting(), -1)),
            "reset": lambda: self.take(self.draft.reset(self._setting())),
            "undo": lambda: self._back(self.draft.undo(), "nothing to take back"),
            "redo": lambda: self._back(self.draft.redo(), "nothing to make again"),
            "only-changed": self._change_filter,
            "measure": self._measure,
            **file_verbs(self),
        }

    @on(Form.Clicked)
    def _clicked(self, event: Form.Clicked) -> None:
        self._to(event.index)
        self.look()

    def _to(self, index: int) -> None:
        self._is_in_plan = False
        self._cursor = index
        self.tell(Told(""))

    def _move(self, by: int) -> None:
        if self._is_in_plan:
            self.query_one(Lines).move(by)
        else:
            self._to(moved(self._rows, self._cursor, by))

    def _turn(self) -> None:
        self._is_in_plan = not self._is_in_plan

    def _setting(self) -> str:
        if not self.key:
            raise LoratoryError("There is no setting here.")
        return self.key

    def _go_to(self, key: str) -> None:
        if place_of(self._rows, key) is None and key:
            self._only_changed = None
            self._judge()
        place = place_of(self._rows, key) if key else None
        if place is not None:
            self._is_in_plan = False
            self._cursor = place

    def _next_finding(self) -> None:
        found = {each.key for each in self._findings}
        if not found & set(FIELDS):
            raise LoratoryError("There is nothing to say against a setting.")
        if not any(row.key in found for row in self._rows if row.key):
            self._only_changed = None
            self._judge()
        place = step(self._rows, self._cursor, 1, lambda row: bool(row.key) and row.key in found)
        if place is not None:
            self._to(place)
            each = next(each for each in self._findings if each.key == self.key)
            self.tell(Told(f"{each.severity}: {each.message}", wrong=each.severity == "error"))

    def _search(self, text: str) -> None:
        self._searched = text.strip()
        self._hit(1)

    def _hit(self, by: int) -> None:
        if not self._searched:
            raise LoratoryError("Nothing was searched yet: / searches.")
        if not any(matches(row.key, self._searched) for row in self._rows if row.key):
            self._only_changed = None
            self._judge()
        place = step(self._rows, self._cursor, by, lambda row: bool(row.key) and matches(row.key, self._searched))
        if place is None:
            raise LoratoryError(f"No setting has {self._searched} in its name or its help.")
        self._to(place)

    def _back(self, draft: Draft, nothing: str) -> None:
        if draft is self.draft:
            raise LoratoryError(f"There is {nothing}.")
        self.take(draft)

    def _change_filter(self) -> None:
        self._only_changed = frozenset(self.draft.changed()) if self._only_changed is None else None
        self._judge()
        self.tell(Told("only what differs; c shows all again" if self._only_changed is not None else ""))

    def _edit(self) -> None:
        key = self._setting()
        self.ask_for(key, key, self.draft.typed(key), lambda text: self.take(self.draft.set(key, text)))

    # --- questions ---

    def ask_for(self, label: str, key: str, text: str, answered: Callable[[str], object]) -> None:
        """Asks for a value of the setting `key`, "" for a path; what is refused stays to be mended."""

        def again(typed: str) -> None:
            try:
                answered(typed)
            except LoratoryError:
                self.ask_for(label, key, typed, answered)
                raise

        self._asked_key, self._asks_path = key, True
        self.ask(label, text, again)

    def attempt(self, work: Callable[[], object]) -> None:
        """Does what was chosen in another screen; what is refused is told."""
        self._try(work)
        self.look()

    def confirm(self, question: str, work: Callable[[], object]) -> None:
        """Asks for y, and then does it."""
        self._question = work
        self.tell(Told(f"{question} y does it, any other key does not"))

    def takes_key(self, key: str) -> bool:
        work, self._question = self._question, None
        if work is None:
            return False
        if key == "y":
            work()
        else:
            self.tell(Told("nothing was done"))
        return True

    def legal_keys(self) -> str:
        return "y does it   any other key does not" if self._question is not None else ""

    @on(PromptLine.Key)
    def _complete(self, event: PromptLine.Key) -> None:
        if event.key != "tab" or not self.is_asking or not self._asks_path:
            return
        line = self.query_one(Prompt).line
        text, names = completed(self._asked_key, line.value, self.draft.folder)
        line.value = text
        line.cursor_position = len(text)
        if len(names) != 1:
            shown = "  ".join(names[:40]) if names else "nothing begins like that"
            self.tell(Told(fitted(shown, 3 * self.size.width, self.glyphs.ellipsis).rstrip()))


def _name(draft: Draft) -> str:
    return "a new draft" if draft.path is None else draft.path.name
