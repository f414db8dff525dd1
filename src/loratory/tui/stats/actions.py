"""The keys of the statistics pane."""

from loratory.tui.keys import PANE_DIGITS, Action, pane_actions

MOVE, BALANCE, LOOK, PROGRAM = "Move", "Balance (what if; nothing is renamed before a)", "Look", "Program"

ACTIONS: tuple[Action, ...] = (
    Action("next", ("j", "down"), "next row", MOVE),
    Action("previous", ("k", "up"), "previous row", MOVE),
    Action("first", ("g g", "home"), "first row", MOVE),
    Action("last", ("G", "end"), "last row", MOVE),
    Action("page-down", ("ctrl+d", "pagedown"), "a page down", MOVE),
    Action("page-up", ("ctrl+u", "pageup"), "a page up", MOVE),
    Action("next-section", ("tab", "l", "right"), "next section", MOVE, short="section"),
    Action("previous-section", ("shift+tab", "h", "left"), "previous section", MOVE),
    Action("open", ("enter", "o"), "the pictures of this row, in the tag editor", MOVE, short="open"),
    Action("more", ("+", "="), "one repeat more for this folder", BALANCE),
    Action("less", ("-",), "one repeat less for this folder", BALANCE),
    Action("set-repeats", ("e",), "type the repeats of this folder", BALANCE, short="repeats"),
    Action("balance", ("b",), "balance all by the largest folder", BALANCE, short="balance"),
    Action("divide", ("d",), "divide all by their common divisor", BALANCE),
    Action("epochs", ("E",), "type the epochs of the run", BALANCE),
    Action("reset", ("r",), "back to what the folders' names say", BALANCE),
    Action("apply", ("a",), "rename the folders", BALANCE, short="apply"),
    Action("undo", ("u",), "take the last renaming back", BALANCE),
    Action("reload", ("g r",), "look at the folders and pictures again", LOOK),
    Action("help", ("?", "f1"), "all keys", PROGRAM, short="keys"),
    Action("quit", ("ctrl+q", "Z Z"), "leave; everything is saved already", PROGRAM, short="quit"),
    *pane_actions("stats", PANE_DIGITS),
)
