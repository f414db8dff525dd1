"""The keys of the run pane."""

from loratory.tui.keys import PANE_DIGITS, Action, pane_actions

RUN, LOOK, MOVE, PROGRAM = (
    "The run (left in its folder, and obeyed after the step in hand)",
    "Look",
    "Move",
    "Program",
)

# g is taken: it asks for a sample.
_PANES = {name: tuple(key for key in keys if " " not in key) for name, keys in PANE_DIGITS.items()}

ACTIONS: tuple[Action, ...] = (
    Action("pause", ("p",), "pause, or go on", RUN, short="pause"),
    Action("save", ("s",), "save the adapter now", RUN, short="save"),
    Action("sample", ("g",), "draw a sample now, from a prompt you can edit", RUN, short="sample"),
    Action("stop", ("x",), "save the state and stop", RUN, short="stop"),
    Action("skip", ("i",), "leave the picture at the cursor out, or take it in again", RUN),
    Action("rate", ("r",), "scale the learning rates", RUN),
    Action("detach", ("d",), "move the run into a process of its own", RUN),
    Action("continue", ("c",), "go on with a run that has ended", RUN, short="go on"),
    Action("memory", ("o",), "after out of memory: what to change, and go on with it", RUN),
    Action("next-view", ("tab",), "next view", LOOK, short="views"),
    Action("previous-view", ("shift+tab",), "previous view", LOOK),
    Action("log", ("l",), "the end of log.txt", LOOK, short="log"),
    Action("subject", ("v",), "what the chart shows", LOOK),
    Action("previous-subject", ("V",), "what it showed before", LOOK),
    Action("zoom", ("z",), "the whole run, its last epoch, its last 100 steps", LOOK, short="zoom"),
    Action("log-scale", ("L",), "logarithmic scale", LOOK),
    Action("runs", ("R",), "all runs: show, compare, overlay", LOOK, short="runs"),
    Action("next", ("j", "down"), "next row", MOVE),
    Action("previous", ("k", "up"), "previous row", MOVE),
    Action("first", ("home",), "first row", MOVE),
    Action("last", ("G", "end"), "last row", MOVE),
    Action("page-down", ("ctrl+d", "pagedown"), "a page down", MOVE),
    Action("page-up", ("ctrl+u", "pageup"), "a page up", MOVE),
    Action("help", ("?", "f1"), "all keys", PROGRAM, short="keys"),
    Action("quit", ("ctrl+q", "Z Z"), "leave; a run goes on", PROGRAM),
    *pane_actions("run", _PANES),
)
