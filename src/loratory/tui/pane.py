"""What the panes beside the tag editor have in common: their lines, their keys, and how one leads to another."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from loratory.errors import LoratoryError
from loratory.terminal.modes import Graphics
from loratory.tui.frame import footer_line, frame_line, message_lines
from loratory.tui.keys import Keymap, shown_keys, written_key
from loratory.tui.project import Project
from loratory.tui.text import Glyphs, plain, printable
from loratory.tui.told import Told
from loratory.tui.widgets.prompt import Prompt, PromptLine

if TYPE_CHECKING:
    from loratory.config.schema import Config
    from loratory.editing.session import Session
    from loratory.runs.host_thread import RunThread
    from loratory.runs.store import RunDirectory


class Panes(Protocol):
    """The program, as a pane sees it. Its methods raise LoratoryError, and then nothing has changed."""

    project: Project
    read_only: bool
    """Whether runs are only shown: nothing is sent to them or started."""

    @property
    def run_shown(self) -> "RunDirectory | None":
        """The run that is looked at; the newest one to begin with, None where there is none."""
        ...

    @property
    def own_run(self) -> "RunThread | None":
        """The run that this process trains, or has trained last."""
        ...

    def show_run(self, run: "RunDirectory") -> None:
        """Brings a run to the front of the run pane."""
        ...

    def plan_config(self, path: Path) -> None:
        """Opens a TOML file in the plan pane."""
        ...

    def start(self, config: "Config") -> "RunDirectory":
        """Trains in a thread of this process, one run at a time, and shows it."""
        ...

    def start_detached(self, config: "Config") -> "RunDirectory":
        """Trains in a process of its own, and shows it."""
        ...

    def resume(self, run: "RunDirectory", *, detached: bool) -> None:
        """Goes on with a run that has stopped, failed or crashed."""
        ...

    def show_pane(self, name: str, at: str | None = None) -> None:
        """Brings a pane to the front, at the picture of that name; the plan pane at the TOML file of that path."""
        ...

    def show_pictures(self, label: str, names: Collection[str]) -> None:
        """Shows some pictures, by their names, in the tag editor; `label` says which they are."""
        ...

    def rename(self, work: Callable[[], object], done: str) -> None:
        """Renames folders once all captions are written, and has every pane look at them anew; `done` tells of it."""
        ...

    def reload(self) -> None:
        """Looks for pictures that came or went."""
        ...

    def leave(self) -> None:
        """Ends the program in good order."""
        ...


class Pane(Screen[None]):
    """A pane: title, `body`, a line of what happened, the keys that matter.

    A subclass says its `name_of_pane`, makes its widgets in `body`, and in `verbs` what each action of its keymap does.
    """

    BINDINGS: ClassVar[list[BindingType]] = []
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - as the base class declares it
        (0, "-narrow"),
        (72, "-normal"),
        (120, "-wide"),
    ]
    name_of_pane = ""

    def __init__(self, panes: Panes, keymap: Keymap, glyphs: Glyphs, graphics: Graphics) -> None:
        super().__init__()
        self.panes = panes
        self.keymap = keymap
        self.glyphs = glyphs
        self.graphics = graphics
        self._typed: list[str] = []
        self._told = Told("")
        self._answered: Callable[[str], object] | None = None
        self._at: str | None = None
        self._has_begun = False

    # --- what a pane is ---

    def body(self) -> ComposeResult:
        """The widgets between the title and the lines at the bottom."""
        raise NotImplementedError

    def verbs(self) -> Mapping[str, Callable[[], object]]:
        """What each action does, but for help, quit and the other panes, which are the same everywhere."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draws the body as things are now."""
        raise NotImplementedError

    def title_content(self, width: int) -> Content:
        """The line at the top."""
        return frame_line(self.panes.project.directory.name, "", self.name_of_pane, width, self.glyphs)

    def arrive(self, at: str | None) -> None:
        """The pane comes to the front; `at` is the name of the picture that the last one stood at."""

    def place(self) -> str | None:
        """The name of the picture this pane stands at."""
        return None

    def renamed(self, told: Told) -> None:
        """Folders of the dataset have other names now, or could not get them, as `told` says."""
        self.tell(told)

    def legal_keys(self) -> str:
        """What can be typed now, where it is not any action; "" otherwise."""
        return ""

    def idle_actions(self) -> Collection[str]:
        """Actions that nothing can be done with now, so that the line of keys need not show them."""
        return ()

    def takes_key(self, key: str) -> bool:
        """Whether the key belongs to something that was begun, such as a question; it is then done with."""
        return False

    def end(self) -> None:
        """Ends what goes on in the background; from any thread."""

    # --- the frame ---

    def compose(self) -> ComposeResult:
        yield Static("", classes="pane-title", markup=False)
        with Horizontal(classes="pane-body"):
            yield from self.body()
        yield Prompt(id="prompt")
        yield Static("", classes="pane-message", markup=False)
        yield Static("", classes="pane-footer", markup=False)

    def on_mount(self) -> None:
        self.query_one(Prompt).display = False
        self.begin()
        self._has_begun = True
        self.arrive(self._at)
        self.look()

    def come(self, at: str | None) -> None:
        """Another pane leads here, from the picture of that name."""
        self._at = at
        if self._has_begun:
            self.arrive(at)
            self.look()

    def begin(self) -> None:
        """The widgets are there: what follows the first look may start."""

    def on_unmount(self) -> None:
        self._has_begun = False
        self.end()

    def look(self) -> None:
        """Draws everything as it is now."""
        if not (self._has_begun and self.is_running):  # when it ends its widgets go first
            return
        width = self.size.width
        self._line("title", self.title_content(width))
        self.draw()
        typed = "Enter takes it   Esc leaves" if self.is_asking else self._typed_keys() or self.legal_keys()
        self._line("footer", footer_line(self.keymap, typed, width, self.glyphs, self.idle_actions()))

    def tell(self, told: Told) -> None:
        """Shows a sentence until the next."""
        self._told = told
        self._draw_told()
        self.call_later(self.look)

    @property
    def message(self) -> str:
        return self._told.text

    def _draw_told(self) -> None:
        if not (self.is_mounted and self.is_running):
            return
        lines = message_lines(self._told, "", self.size.width, self.glyphs)
        widget = self.query_one(".pane-message", Static)
        widget.styles.height = len(lines)
        widget.update(Content("\n").join(lines))

    def _line(self, name: str, content: Content) -> None:
        self.query_one(f".pane-{name}", Static).update(content, layout=False)

    def on_resize(self) -> None:
        self.call_later(self.look)
        self.call_later(self._draw_told)

    # --- a question ---

    def ask(self, label: str, text: str, answered: Callable[[str], object]) -> None:
        """Asks for a line of text, `text` to begin with; Enter answers, Escape does not."""
        self._answered = answered
        self.query_one(Prompt).open(f" {label} {self.glyphs.prompt} ", text)
        self.look()

    @property
    def is_asking(self) -> bool:
        return self._answered is not None

    @on(PromptLine.Key)
    def _prompt_key(self, event: PromptLine.Key) -> None:
        answered = self._answered
        if answered is None or event.key not in ("enter", "escape"):
            return
        prompt = self.query_one(Prompt)
        text, self._answered = prompt.line.value, None
        prompt.close()
        if event.key == "enter":
            self._try(lambda: answered(text))
        else:
            self.tell(Told(""))  # what was told went with the question
        self.look()

    # --- keys ---

    def on_key(self, event: events.Key) -> None:
        if self.is_asking:
            return
        key = written_key(event.key, event.character)
        event.stop()
        event.prevent_default()
        self._try(lambda: self.takes_key(key) or self._press(key))
        if self.is_current:  # else a page was opened: it comes first, and this is drawn when it is left
            self.look()

    def on_screen_resume(self) -> None:
        self.look()

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except LoratoryError as error:
            self.tell(Told.of(error))

    def _press(self, key: str) -> None:
        keys = " ".join([*self._typed, key])
        action = self.keymap.find(keys)
        if action is not None:
            self._typed = []
            self._do(action.id)
        elif self.keymap.is_prefix(keys):
            self._typed.append(key)
        else:
            begun, self._typed = bool(self._typed), []
            if key != "escape" or not begun:
                self.unknown(keys)

    def unknown(self, keys: str) -> None:
        """A key that no action has."""
        if keys != "escape":
            self.tell(Told(f"{printable(shown_keys(keys))} does nothing here; ? shows the keys"))

    def _do(self, action_id: str) -> None:
        if action_id.startswith("pane-"):
            self.panes.show_pane(action_id.removeprefix("pane-"), self.place())
        elif action_id == "help":
            self.show_help()
        elif action_id == "quit":
            self.panes.leave()
        else:
            self.verbs()[action_id]()

    def _typed_keys(self) -> str:
        """How a begun sequence can go on; "" where none is begun."""
        if not self._typed:
            return ""
        begun = " ".join(self._typed)
        return "   ".join(
            f"{shown_keys(keys)} {action.help}"
            for action in self.keymap.actions
            for keys in action.keys
            if keys.startswith(f"{begun} ")
        )

    def help_lines(self) -> list[str]:
        """What stands above the table of keys in the help."""
        return []

    def show_help(self) -> None:
        """All keys, from the table that dispatches them."""
        from loratory.tui.screens.overlays import TextScreen  # not for the first paint

        self.app.push_screen(TextScreen("Keys", [*map(plain, self.help_lines()), *key_lines(self.keymap)]))


class DatasetPane(Pane):
    """A pane that shows the pictures of a dataset."""

    def __init__(self, panes: Panes, session: "Session", keymap: Keymap, glyphs: Glyphs, graphics: Graphics) -> None:
        super().__init__(panes, keymap, glyphs, graphics)
        self.session = session

    def title_content(self, width: int) -> Content:
        from loratory.tui.views import title_line  # a pane without pictures needs nothing of the tag editor

        return title_line(self.session, self.place(), self.name_of_pane, width, self.glyphs)


def key_lines(keymap: Keymap) -> list[Content]:
    """The table of keys, group by group, for reading."""
    lines: list[Content] = []
    group = ""
    for action in keymap.actions:
        if action.group != group:
            group = action.group
            lines += [Content(""), plain(group, "bold $text-accent")]
        keys = " ".join(shown_keys(keys) for keys in action.keys)
        if action.id == "palette":
            keys = "1 to 9, 0"
        waits = " + letter" if action.takes == "hint" else ""
        lines.append(Content.assemble((f"  {printable(keys + waits):<18}", "$text-accent"), plain(action.help)))
    return lines
