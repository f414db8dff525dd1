"""Everything that `loratory check` looks for in pictures, in the set they make and in its folders."""

from loratory.dataset.findings import Severity
from loratory.editing.checks.rule import Rule

_ERROR: tuple[Severity, ...] = ("error",)
_WARNING: tuple[Severity, ...] = ("warning",)
_NOTE: tuple[Severity, ...] = ("note",)

_FILES = (
    Rule(
        "image-unreadable",
        _ERROR,
        "the picture is empty, damaged, cut short, no picture, a decompression bomb, or cannot be opened",
        "a run does not start, or stops when it comes to the picture",
        "get it anew, or leave it out: the fix sets it aside, and undo brings it back",
    ),
    Rule(
        "image-format",
        ("warning", "note"),
        "GIF, TIFF, HEIC, JPEG XL and others; a note where one hides behind the ending of another format",
        "trainers leave such files out (PNG, JPEG, WebP, BMP and AVIF are read, WebP by all trainers of today)",
        "convert it to PNG",
    ),
    Rule(
        "wrong-extension",
        _NOTE,
        "a JPEG is called .png, and the like",
        "trainers go by the contents, other programs by the name",
        "give it the ending of what it is",
    ),
    Rule(
        "file-name",
        ("warning", "error"),
        "a file's name has control characters, or is not valid UTF-8 (an error)",
        "other programs stumble over such names",
        "rename the picture; its caption follows",
    ),
    Rule(
        "animated",
        _NOTE,
        "the picture moves",
        "trainers read the first frame only",
        "keep that frame as a PNG, or choose another one",
    ),
    Rule(
        "transparent",
        ("note", "warning"),
        "parts of the picture are transparent; a warning where other colours than white hide there",
        "Loratory puts white behind it; sd-scripts drops the transparency and trains on the hidden colours",
        "put a plain colour behind it, another one from picture to picture, and tag it",
    ),
    Rule(
        "exif-rotated",
        _NOTE,
        "the file says that the picture is to be turned or mirrored",
        "Loratory turns it; sd-scripts trains on it as it lies",
        "save it upright",
    ),
    Rule(
        "colour-mode",
        _NOTE,
        "CMYK, 16 bits a channel, or a colour profile other than sRGB",
        "Loratory converts the colours; sd-scripts ignores profiles and shows other colours",
        "convert it to sRGB with 8 bits",
    ),
)

_SIZE = (
    Rule(
        "low-resolution",
        ("note", "warning"),
        "training would enlarge the picture; a warning from twice on",
        "enlarging gives blurred pixels, and blur is learnt",
        "upscale it; that is done with a network, not with plain interpolation",
    ),
    Rule(
        "low-res-untagged",
        _NOTE,
        "the picture is far too small to upscale well, and is not tagged for it",
        "a tag ties the low quality to a word, so that it does not become part of the subject",
        "tag it in the words of the vocabulary, or leave it out",
    ),
    Rule(
        "too-large",
        _NOTE,
        "a side is longer than 3000 px",
        "no training uses so much; loading takes time, and some trainers handle such pictures badly",
        "shrink it to 3000 px",
    ),
    Rule(
        "crop-loss",
        ("note", "warning"),
        "its bucket cuts away more than a sixth of the picture; a warning from a third on",
        "what is cut away is not trained",
        "cut plain ground away, crop it yourself, or allow longer buckets",
    ),
    Rule(
        "extreme-aspect",
        _WARNING,
        "the picture is far longer than any bucket, or a side has only a few px",
        "only a small piece of it would be trained",
        "crop it, or leave it out",
    ),
    Rule(
        "empty-ground",
        _NOTE,
        "empty background takes much of the picture",
        "pictures are scaled as a whole, so that the subject gets fewer px",
        "crop to the subject; the suggestion says what that wins",
    ),
    Rule(
        "sheet",
        _NOTE,
        "several separate figures stand on a plain ground",
        "one picture squeezes them into the px of one",
        "split it into one picture for each, or tag it as a sheet",
    ),
)

_QUALITY = (
    Rule(
        "blurred",
        _NOTE,
        "far less sharp than most pictures of the set",
        "one bad picture weighs much in a small set",
        "replace it, or tag it as blurred",
    ),
    Rule(
        "enlarged",
        _NOTE,
        "the picture has less detail than its size promises",
        "it was enlarged before, and its blur is learnt",
        "look for the original, or shrink and upscale it",
    ),
    Rule(
        "compressed",
        _NOTE,
        "the blocks of strong compression show, as of JPEG",
        "artefacts are learnt as part of the subject",
        "look for a better copy, or clean it",
    ),
    Rule(
        "poison-hint",
        _NOTE,
        "flat areas hold more noise than drawing or compression leaves as a rule",
        "it may be adversarial noise (Glaze, Nightshade); grain, paper and strong compression look the same to a "
        "program",
        "look at it closely; upscaling, shrinking and upscaling, or smoothing take such noise away",
    ),
    Rule(
        "greyscale-untagged",
        _NOTE,
        "the picture has no colours, and its tags do not say so",
        "without the tag, grey becomes part of the subject",
        "tag it in the words of the vocabulary",
    ),
    Rule(
        "image-ranking",
        _NOTE,
        "the weakest pictures of the set, by all that is said of their quality",
        "quality counts for more than number",
        "replace these first",
    ),
)

_SET = (
    Rule(
        "image-count",
        ("note", "warning"),
        "a concept has fewer or more pictures than suit the goal; a warning below 8, for a style below 15",
        "15 to 50 pictures are usual and 30 a good number, 50 to 200 for a style",
        "add pictures, or keep the best",
    ),
    Rule(
        "background-bias",
        _WARNING,
        "many pictures have a plain background of one colour, and few of them are tagged with it",
        "what many pictures share untagged becomes part of the subject",
        "tag it where it is to be seen",
    ),
    Rule(
        "background-untagged",
        _NOTE,
        "a picture lacks the tag for its plain background that others like it have",
        "a tag is learnt by what it stands for everywhere",
        "tag it, or leave it",
    ),
    Rule(
        "same-picture",
        ("warning", "note"),
        "two files are the same, byte for byte; a note in folders of different concepts",
        "the picture is trained twice as often as the others",
        "leave one out",
    ),
    Rule(
        "near-duplicate",
        _NOTE,
        "two pictures are nearly the same",
        "what they share is trained more often than the rest",
        "keep the better one, unless the difference is what is to be learnt",
    ),
    Rule(
        "mirrored-duplicate",
        ("note", "warning"),
        "two pictures are nearly the same, mirrored; a warning for an asymmetric subject",
        "mirrored copies add little, and turn a subject whose sides differ the wrong way",
        "flip one back, or leave it out",
    ),
    Rule(
        "overlay-repeated",
        _NOTE,
        "the same thing is at the same place in several pictures: a watermark, a signature, a caption",
        "what repeats at one place is learnt there",
        "erase it, crop it away, or tag it",
    ),
    Rule(
        "style-concentration",
        _NOTE,
        "most pictures look alike in colours and strokes (not said of a style)",
        "results lean to that look unasked",
        "add other pictures, tag artist and medium, or use a regularization set",
    ),
    Rule(
        "asymmetric-flip",
        _WARNING,
        "flip_aug mirrors a subject that is declared asymmetric",
        "half of the visits show it the wrong way round",
        "switch one of the two off",
    ),
    Rule(
        "bucket-small",
        _NOTE,
        "a bucket has fewer pictures than a batch",
        "its batches are not full, or hold a picture more than once",
        "crop towards common shapes, take larger steps between buckets, or a smaller batch",
    ),
)

_FOLDERS = (
    Rule(
        "folder-name",
        ("warning", "note"),
        "a folder is not named like 10_fox (repeats, underscore, token); a note where it holds no picture",
        "its pictures are not trained",
        "rename it",
    ),
    Rule("folder-unreadable", _ERROR, "a folder cannot be read", "a run does not start", "check its permissions"),
    Rule(
        "layout",
        _NOTE,
        "the folder as a whole cannot be trained as it is",
        "trainers want concept folders in one folder",
        "make a concept folder; `loratory prepare` does",
    ),
    Rule("loose-images", _WARNING, "pictures lie beside the concept folders", "they are not trained", "move them in"),
    Rule(
        "nested-folder",
        _WARNING,
        "pictures lie in a folder inside a concept folder, or one there has the name of a picture",
        "they are not trained",
        "move them up; get the picture anew",
    ),
    Rule(
        "empty-folder", _WARNING, "a concept folder holds no picture", "there is nothing to train", "fill or remove it"
    ),
    Rule(
        "masks-unreadable", _ERROR, "a folder of masks cannot be read", "a run does not start", "check its permissions"
    ),
    Rule("mask-unreadable", _ERROR, "a mask picture cannot be read", "a run does not start", "make it anew"),
    Rule(
        "mask-shape",
        _WARNING,
        "a mask has another shape than its picture",
        "it is stretched onto it",
        "make it anew from the picture",
    ),
    Rule("mask-missing", _WARNING, "a picture has no mask while others have", "it counts as a whole", "make one"),
    Rule("repeats", _ERROR, "a folder asks for more than 10 000 repeats", "an epoch would never end", "rename it"),
    Rule(
        "imbalance",
        _WARNING,
        "a concept gets more than twice the visits of another",
        "it will dominate the other one",
        "`loratory balance` says which repeats fit",
    ),
    Rule(
        "small-folder",
        _WARNING,
        "a folder of fewer than 10 pictures makes up for it by repeats",
        "so few can overbake while the rest is fine",
        "add pictures, or lower its repeats",
    ),
    Rule(
        "reg-count",
        ("note", "warning"),
        "far fewer regularization pictures than pictures; a warning below a quarter",
        "each is seen so often that it is learnt itself",
        "use about as many as there are pictures, up to some 50 to draw from",
    ),
    Rule(
        "reg-coverage",
        _NOTE,
        "one epoch shows less than a tenth of the regularization set",
        "most of it is hardly used",
        "fewer pictures do as well",
    ),
)

PICTURE_SECTIONS: dict[str, tuple[Rule, ...]] = {
    "Picture files": _FILES,
    "Size and shape": _SIZE,
    "Quality": _QUALITY,
    "The set's pictures": _SET,
    "Folders": _FOLDERS,
}
