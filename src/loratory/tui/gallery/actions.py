"""The keys of the gallery."""

from loratory.tui.keys import PANE_DIGITS, Action, pane_actions

MOVE, LOOK, RUN, PROGRAM = "Move", "Look", "The run (obeyed after the step in hand)", "Program"

# g is taken, as in the run pane: it asks for a sample.
_PANES = {name: tuple(key for key in keys if " " not in key) for name, keys in PANE_DIGITS.items()}

ACTIONS: tuple[Action, ...] = (
    Action("later", ("l", "right"), "the picture of a later step", MOVE, short="later"),
    Action("earlier", ("h", "left"), "the picture of an earlier step", MOVE),
    Action("next-prompt", ("j", "down"), "next prompt", MOVE, short="prompt"),
    Action("previous-prompt", ("k", "up"), "previous prompt", MOVE),
    Action("first", ("home",), "the first picture of this prompt", MOVE),
    Action("last", ("G", "end"), "the last picture of this prompt", MOVE),
    Action("section", ("tab", "shift+tab"), "samples or grids", MOVE, short="grids"),
    Action("compare", ("space",), "beside the first picture of this prompt", LOOK, short="compare"),
    Action("difference", ("=",), "what is other than in the first picture of this prompt", LOOK),
    Action("thumbnails", ("t",), "all steps of this prompt on one sheet", LOOK, short="sheet"),
    Action("list", ("v",), "a list instead of pictures", LOOK),
    Action("full", ("f",), "the picture over the whole screen", LOOK),
    Action("settings", ("i",), "what the picture was drawn with", LOOK),
    Action("path", ("o",), "where the picture lies", LOOK),
    Action("plain", ("escape",), "back to the one picture", LOOK),
    Action("sample", ("g",), "draw a sample now, with this prompt edited", RUN, short="sample"),
    Action("help", ("?", "f1"), "all keys", PROGRAM, short="keys"),
    Action("quit", ("ctrl+q", "Z Z"), "leave; a run goes on", PROGRAM),
    *pane_actions("gallery", _PANES),
)
