"""The keys of the plan pane."""

from loratory.tui.keys import PANE_DIGITS, Action, pane_actions

MOVE, EDIT, LOOK, FILES, RUN, PROGRAM = "Move", "Change a setting", "Look", "Files", "Run", "Program"

ACTIONS: tuple[Action, ...] = (
    Action("next", ("j", "down"), "next setting", MOVE),
    Action("previous", ("k", "up"), "previous setting", MOVE),
    Action("first", ("g g", "home"), "first setting", MOVE),
    Action("last", ("G", "end"), "last setting", MOVE),
    Action("page-down", ("ctrl+d", "pagedown"), "a page down", MOVE),
    Action("page-up", ("ctrl+u", "pageup"), "a page up", MOVE),
    Action("next-table", ("}", "]"), "next table", MOVE),
    Action("previous-table", ("{", "["), "previous table", MOVE),
    Action("side", ("tab", "shift+tab"), "the plan, and back to the settings", MOVE, short="plan"),
    Action("next-finding", ("i",), "next setting with a finding", MOVE, short="finding"),
    Action("search", ("/",), "search a setting, in names and help", MOVE),
    Action("next-hit", ("n",), "next hit", MOVE),
    Action("previous-hit", ("N",), "previous hit", MOVE),
    Action("edit", ("enter", "e"), "type a value; Tab completes paths and choices", EDIT, short="edit"),
    Action("toggle", ("space", "l", "right"), "on or off, the next choice", EDIT),
    Action("untoggle", ("h", "left"), "the choice before", EDIT),
    Action("reset", ("x", "r"), "what the preset or the default says", EDIT),
    Action("undo", ("u",), "take the last change back", EDIT),
    Action("redo", ("U", "ctrl+r"), "make it again", EDIT),
    Action("only-changed", ("c",), "only what differs from the preset and the defaults; again for all", LOOK),
    Action("difference", ("=",), "what differs from the preset", LOOK),
    Action("difference-any", ("g =",), "what differs from another preset", LOOK),
    Action("open", ("o",), "take a preset, or open a configuration, a run's settings or a kept draft", FILES),
    Action("write", ("w",), "write the configuration", FILES, short="write"),
    Action("write-preset", ("W",), "save the settings as a preset of your own", FILES),
    Action("export", ("K",), "write it for kohya's sd-scripts", FILES),
    Action("start", ("S",), "train, in this program; it goes on when the terminal closes", RUN, short="start"),
    Action("start-detached", ("D",), "train in a process of its own", RUN),
    Action("measure", ("m",), "load the model and try a few steps, for time and memory; again to stop", RUN),
    Action("help", ("?", "f1"), "all keys", PROGRAM, short="keys"),
    Action("quit", ("ctrl+q", "Z Z"), "leave; the draft is kept", PROGRAM),
    *pane_actions("plan", PANE_DIGITS),
)
