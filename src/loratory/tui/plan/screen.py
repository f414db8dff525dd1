"""The plan pane: the settings as a form, what they come to beside it, and the way into a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from loratory.config.draft import Draft, replaced
from loratory.config.draft_files import open_draft
from loratory.errors import LoratoryError
from loratory.tui.delivery import Delivery
from loratory.tui.frame import frame_line
from loratory.tui.pane import Pane
from loratory.tui.plan import journal
from loratory.tui.plan.browsing import Browsing
from loratory.tui.plan.completion import completed
from loratory.tui.plan.findings import PlanFinding, counted, findings_of
from loratory.tui.plan.form import Form, Lines
from loratory.tui.plan.help import help_lines
from loratory.tui.plan.opening import first_draft
from loratory.tui.plan.planning import Planning
from loratory.tui.plan.report import finding_lines, plan_lines, summary
from loratory.tui.plan.verbs import file_verbs
from loratory.tui.text import fitted, plain
from loratory.tui.told import Told
from loratory.tui.widgets.prompt import Prompt, PromptLine

_WIDE = 120
_FORM_WIDTH = 64  # as in plan.tcss
_FAR = 10_000
_NOTHING = "Nothing differs from the preset and the defaults; c shows all settings."

_HELP = """\
The form holds every setting of a configuration. At the right stands where
a value comes from: yours or preset. A dot marks what differs from preset
and defaults; x is an error, ! a warning, i worth knowing, and the key i
leads from one to the next. The plan is made anew after each change, in a
process of its own. What you change is kept until w writes it, also when
the program ends.
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
        self.planning = Planning(
            Delivery(self), self._look_anew, lambda why: self.tell(Told(why, wrong=True)), self._has_measured
        )
        self.browsing = Browsing()
        self._is_in_plan = False
        self._question: Callable[[], object] | None = None
        self._asked_key: str | None = None
        self._findings: list[PlanFinding] = []
        self._cannot_keep = False
        self._drawn_of: tuple[int, int] | None = None
        self._drawn: list[Content] = []
        project = self.panes.project
        origin = str(project.dataset or "")
        try:
            self.open(first_draft(project), Told(""), origin)
        except LoratoryError as error:
            self.open(Draft(project.directory.absolute(), {}), Told.of(error), origin)

    def end(self) -> None:
        if hasattr(self, "planning"):  # else it was never shown
            self.planning.end()

    def arrive(self, at: str | None) -> None:
        """A path that ends in .toml is opened; the draft before it is kept."""
        if at is None or not at.endswith(".toml") or Path(at).absolute() == self.draft.path:
            return
        try:
            self.open(open_draft(Path(at)), Told(f"opened {at}"))
        except LoratoryError as error:
            self.tell(Told.of(error))

    # --- the draft ---

    def open(self, draft: Draft, told: Told, origin: str = "") -> None:
        """Works on another draft from here on; changes to it that were kept come back, and u takes them away.

        origin: names what a draft without a file was begun from.
        """
        self.origin = origin
        kept = journal.kept_of(draft, origin)
        if kept is not None:
            told = Told(f"{_name(draft)}: your changes that were not written are here again; u takes them back")
        elif draft.remark and not told.text:
            told = Told(draft.remark)
        self.planning.forget()
        self._set(kept or draft)
        self.browsing.to_top()
        self.tell(told)

    def take(self, draft: Draft, told: str = "") -> None:
        """The next draft: it is kept, shown and planned."""
        self._say(told)
        self._set(draft)

    def _say(self, text: str) -> None:
        if text or self.message:  # a message may need other lines: nothing to say must cost no layout
            self.tell(Told(text))

    def _set(self, draft: Draft) -> None:
        self.draft = draft
        try:
            journal.keep(draft, self.origin)
            self._cannot_keep = False
        except OSError as error:
            if not self._cannot_keep:  # told once, not with every key
                self._cannot_keep = True
                self.tell(Told(f"Changes cannot be kept until they are written: {error.strerror}.", wrong=True))
        self.planning.want(draft)
        self._judge()

    def _judge(self) -> None:
        """Finds anew what there is to say, and makes the rows."""
        planning, draft = self.planning, self.draft
        self._findings = findings_of(draft, planning.facts, planning.plan_of(draft), planning.error_of(draft))
        self.browsing.show(draft, self._findings)

    def _look_anew(self) -> None:
        self._judge()
        self.look()

    @property
    def findings(self) -> list[PlanFinding]:
        return self._findings

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan of this very draft; {} while there is none."""
        return self.planning.plan_of(self.draft)

    def refuse_errors(self) -> None:
        """Goes to the first error, and raises LoratoryError with it."""
        error = next((each for each in self._findings if each.severity == "error"), None)
        if error is not None:
            self._is_in_plan = not self.browsing.go_to(error.key)
            raise LoratoryError(error.message)

    def _measure(self) -> None:
        if self.planning.stop_measuring():
            self.tell(Told("the measurement was ended"))
            return
        self.refuse_errors()
        run = self.panes.own_run
        if run is not None and run.is_alive:
            raise LoratoryError("A run is being trained here: beside it, time and memory would be measured wrong.")
        self.planning.measure(self.draft)

    def _has_measured(self) -> None:
        self.tell(Told("measured: time and memory stand at the end of the plan"))

    # --- drawing ---

    def title_content(self, width: int) -> Content:
        return frame_line(_name(self.draft), "", self.name_of_pane, width, self.glyphs)

    def draw(self) -> None:
        width, browsing = self.size.width, self.browsing
        is_wide = width >= _WIDE
        left = _FORM_WIDTH if is_wide else width
        self.set_class(self._is_in_plan, "-side")
        self.query_one("#plan-status", Static).update(self._status(width), layout=False)
        self.query_one(Form).show(browsing.rows, browsing.cursor, is_active=not self._is_in_plan, empty=_NOTHING)
        key = browsing.key
        shown = help_lines(self.draft, key, self._findings, left, self.glyphs) if key else []
        self.query_one("#plan-help", Static).update(Content("\n").join(shown), layout=False)
        if is_wide or self._is_in_plan:
            self.query_one(Lines).show(self._report(max(20, width - left - 1 if is_wide else width)))

    def _status(self, width: int) -> Content:
        draft = self.draft
        parts = [draft.preset or "no preset", "written" if draft.is_saved else "not written"]
        parts += [counted(self._findings)] if self._findings else []
        if self.plan:
            parts.append(summary(self.plan))
        doing = (("planning", self.planning.waits_for), ("measuring", self.planning.measures))
        parts += [f"{name}{self.glyphs.ellipsis} {what}" for name, what in doing if what]
        return plain(fitted(" " + f" {self.glyphs.dot} ".join(parts), width, self.glyphs.ellipsis))

    def _report(self, width: int) -> list[Content]:
        lines = [*finding_lines(self._findings, width, is_planned=bool(self.plan)), Content("")]
        if self.plan:
            return lines + self._plan_lines(width)
        if any(each.severity == "error" for each in self._findings):
            return [*lines, plain(" no plan while there is an error", "$foreground-muted")]
        return [*lines, plain(f" planning{self.glyphs.ellipsis} {self.planning.waits_for}", "$foreground-muted")]

    def _plan_lines(self, width: int) -> list[Content]:
        plan, config = self.plan, self.draft.config
        of = (self.planning.answers, width)  # drawn once: keys that only move the cursor are many
        if of != self._drawn_of and config is not None:
            self._drawn_of, self._drawn = of, plan_lines(plan, config, width, self.glyphs)
        return self._drawn

    def help_lines(self) -> list[str]:
        return list(_HELP.splitlines())

    # --- keys ---

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        page = max(1, self.query_one(Form).rows_shown - 1)
        return {
            "next": lambda: self._move(1),
            "previous": lambda: self._move(-1),
            "first": lambda: self._move(-_FAR),
            "last": lambda: self._move(_FAR),
            "page-down": lambda: self._move(page),
            "page-up": lambda: self._move(-page),
            "next-table": lambda: self._moving(lambda: self.browsing.move_table(1)),
            "previous-table": lambda: self._moving(lambda: self.browsing.move_table(-1)),
            "side": self._turn,
            "next-finding": self._next_finding,
            "search": lambda: self.ask_for(
                "search", None, "", lambda text: self._hit(self.browsing.search(text.strip()))
            ),
            "next-hit": lambda: self._hit(self.browsing.search_on(1)),
            "previous-hit": lambda: self._hit(self.browsing.search_on(-1)),
            "edit": self._edit,
            "toggle": lambda: self.take(self.draft.choose(self._setting(), 1)),
            "untoggle": lambda: self.take(self.draft.choose(self._setting(), -1)),
            "reset": lambda: self.take(self.draft.reset(self._setting())),
            "undo": lambda: self._step_in_time(self.draft.undo(), "nothing to take back"),
            "redo": lambda: self._step_in_time(self.draft.redo(), "nothing to make again"),
            "only-changed": self._turn_filter,
            "measure": self._measure,
            **file_verbs(self),
        }

    @on(Form.Clicked)
    def _clicked(self, event: Form.Clicked) -> None:
        self.browsing.cursor = event.index
        self._moving(lambda: None)
        self.look()

    def _moving(self, move: Callable[[], object]) -> None:
        self._is_in_plan = False
        self._say("")  # what was said was about the setting that is left
        move()

    def _move(self, by: int) -> None:
        if self._is_in_plan:
            self.query_one(Lines).move(by)
        else:
            self._moving(lambda: self.browsing.move(by))

    def _turn(self) -> None:
        self._is_in_plan = not self._is_in_plan

    def _setting(self) -> str:
        if not self.browsing.key:
            raise LoratoryError("There is no setting here.")
        return self.browsing.key

    def _next_finding(self) -> None:
        finding = self.browsing.next_finding()  # what it says stands in the help of its setting
        self._is_in_plan = False
        self.tell(Told(f"{finding.severity}, {self._findings.index(finding) + 1} of {len(self._findings)}"))

    def _hit(self, found: tuple[int, int]) -> None:
        self._is_in_plan = False
        number, count = found
        self.tell(Told(f"{self.browsing.searched}: {number} of {count}" + ("; n goes on" if count > 1 else "")))

    def _step_in_time(self, draft: Draft, nothing: str) -> None:
        if draft is self.draft:
            raise LoratoryError(f"There is {nothing}.")
        self.take(draft)

    def _turn_filter(self) -> None:
        self.browsing.turn_filter()
        self.tell(Told("only what differs; c shows all again" if self.browsing.shows_changed else ""))

    def _edit(self) -> None:
        key = self._setting()
        self.ask_for(key, key, self.draft.typed(key), lambda text: self._put(key, text))

    def _put(self, key: str, text: str) -> None:
        before, draft = self.draft, self.draft.set(key, text)
        left = [each for each in replaced(before, draft) if each != key]
        told = f"{' and '.join(left)} {'is' if len(left) == 1 else 'are'} left out now: {key} takes the place"
        self.take(draft, told if left else "")

    # --- questions ---

    def ask_for(self, label: str, key: str | None, text: str, answered: Callable[[str], object]) -> None:
        """Asks for a value of the setting `key`, "" for a path, None for other text.

        What is refused stays to be mended; Tab completes.
        """

        def again(typed: str) -> None:
            try:
                answered(typed)
            except LoratoryError:
                self.ask_for(label, key, typed, answered)
                raise

        self._asked_key = key
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
        if event.key != "tab" or not self.is_asking or self._asked_key is None:
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
