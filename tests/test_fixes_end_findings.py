"""Every fix that may be taken unasked ends its finding: found, mended, and gone when all is looked at anew."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFilter

from hostile_pictures import cut, grey_16_bit
from loratory.editing.checks.caption import check_caption
from loratory.editing.checks.context import session_context
from loratory.editing.checks.dataset_wide import check_set
from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.checks.fixing import plan_fixes
from loratory.editing.checks.looking import check_session_pictures, look_at_pictures
from loratory.editing.checks.recipe_fix import plan_recipes, take
from loratory.editing.session import open_session
from loratory.preparation.desk import Desk

SIDE = 96
_SETTINGS = 'vocabulary = "danbooru"\n[dataset]\nresolution = 64\nmin_bucket_reso = 64\n'


def scene(path: Path, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture without a plain ground that looks like no other; it is saved at `path` too."""
    noise = random.Random(seed)
    coarse = Image.new("RGB", (7, 7))
    coarse.putdata([(noise.randrange(256), noise.randrange(256), noise.randrange(256)) for _ in range(49)])
    made = coarse.resize(size, Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    return made


def on_white(path: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (300, 300)) -> None:
    ground = Image.new("RGB", size, "white")
    ImageDraw.Draw(ground).ellipse(box, fill=(200, 40, 60), outline=(20, 20, 90), width=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    ground.save(path)


def caption(folder: Path, text: str, encoding: str = "utf-8") -> None:
    scene(folder / "a.png")
    (folder / "a.txt").write_bytes(text.encode(encoding))


def greys(folder: Path) -> None:
    scene(folder / "a.png").convert("L").filter(ImageFilter.SHARPEN).save(folder / "a.png")
    (folder / "a.txt").write_text("foxlora, solo", "utf-8")


def whites(folder: Path) -> None:
    for number in range(6):
        on_white(folder / f"{number}.png", (4 + number, 8, 90 - 7 * number, 80 + number), (96, 96))
        (folder / f"{number}.txt").write_text("foxlora, solo", "utf-8")


def some_white(folder: Path) -> None:
    whites(folder)
    for number in range(5):
        (folder / f"{number}.txt").write_text("foxlora, solo, white background", "utf-8")


def transparent(folder: Path) -> None:
    made = scene(folder / "a.png").convert("RGBA")
    made.putalpha(Image.new("L", made.size, 0))
    made.paste(scene(folder / "a.png"), (0, 0), Image.linear_gradient("L").resize(made.size))
    made.save(folder / "a.png")


def profiled(folder: Path) -> None:
    from PIL import ImageCms

    made = scene(folder / "a.png")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    made.save(folder / "a.png", icc_profile=lab)


def twice(folder: Path) -> None:
    scene(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())


def sharing(folder: Path) -> None:
    scene(folder / "a.png", 1)
    scene(folder / "a.jpg", 2)
    (folder / "a.txt").write_text("foxlora, solo", "utf-8")


def saved(name: str, **options: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        made = scene(folder / "a.png")
        (folder / "a.png").unlink()
        made.save(folder / name, **options)  # pyright: ignore[reportArgumentType]

    return write


def moving(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        frames = [scene(folder / "a.png", seed) for seed in range(3)]
        (folder / "a.png").unlink()
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])

    return write


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved("a.jpg", exif=exif)(folder)


def tiff(folder: Path) -> None:
    scene(folder / "b.png", 1)
    saved("a.tif")(folder)


def tiny(folder: Path) -> None:
    settings = folder.parent / ".loratory" / "dataset.toml"
    settings.write_text(_SETTINGS.replace("64", "256"), "utf-8")
    scene(folder / "a.png", size=(56, 56))
    (folder / "a.txt").write_text("foxlora, solo", "utf-8")


def misspelled(folder: Path) -> None:
    for number in range(4):
        scene(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text("foxlora, long_hair" if number else "foxlora, long hair", "utf-8")


def called(name: str, kind: str = "PNG") -> Callable[[Path], None]:
    return saved(name, format=kind)


FAULTS: dict[str, Callable[[Path], object]] = {
    "image-unreadable": lambda folder: (scene(folder / "b.png", 1), cut(folder / "a.png")),
    "image-format": tiff,
    "image-format (hidden)": called("a.png", "GIF"),
    "wrong-extension": called("a.png", "JPEG"),
    "file-name": called("a\nb.png"),
    "file-name (no text)": called("b\udcff.png"),
    "extension-case": called("a.Png"),
    "stem-clash": sharing,
    "animated": moving("a.webp"),
    "animated (png)": moving("a.png"),
    "transparent": transparent,
    "exif-rotated": turned,
    "colour-mode": lambda folder: grey_16_bit(folder / "a.png"),
    "colour-mode (cmyk)": lambda folder: scene(folder / "x.png").convert("CMYK").save(folder / "a.jpg"),
    "low-resolution": lambda folder: scene(folder / "a.png", size=(40, 40)),
    "low-res-untagged": tiny,
    "too-large": lambda folder: scene(folder / "a.png", size=(3100, 2900)),
    "empty-ground": lambda folder: on_white(folder / "a.png", (180, 40, 280, 160)),
    "empty-ground (small)": lambda folder: on_white(folder / "a.png", (40, 40, 70, 66), (100, 100)),
    "greyscale-untagged": greys,
    "background-bias": whites,
    "background-untagged": some_white,
    "same-picture": twice,
    "implied": lambda folder: caption(folder, "foxlora, solo, greyscale, monochrome"),
    "alias": lambda folder: caption(folder, "foxlora, grayscale"),
    "spacing": lambda folder: caption(folder, "foxlora,  solo ,, standing"),
    "duplicate": lambda folder: caption(folder, "foxlora, solo, Solo"),
    "spelling": misspelled,
    "caption-bom": lambda folder: caption(folder, "\ufefffoxlora, solo"),
    "caption-encoding": lambda folder: caption(folder, "foxlora, café", "latin-1"),
}


def look(root: Path) -> tuple[list[CaptionFinding], object]:
    session = open_session(root)
    captions = session_context(session)
    looked = look_at_pictures(session, captions)
    found = check_session_pictures(session, looked) + check_set(session.items, captions)
    found += [finding for item in session.items for finding in check_caption(item, captions)]
    return found, (session, [*session.items, *(each.item for each in looked.pictures)])


def mend(root: Path) -> list[str]:
    """Takes every fix that may be taken unasked; the rules that had one."""
    found, (session, items) = look(root)  # type: ignore[misc]
    mended = [finding for finding in found if finding.automatic_fix is not None]
    outcome = session.commit(plan_fixes(session, mended, "mend"))
    assert not outcome.skipped
    desk = Desk(session.directory)
    size = session.settings.dataset_settings(root).resolution_wh
    plan = plan_recipes(desk, items, mended, "mend", size)
    assert plan.refused == ()
    if plan.changes:
        report = take(desk, plan)
        assert not report.failed
        assert not report.left_alone
    return [finding.rule for finding in mended]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fix_ends_its_finding(fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "1_foxlora"
    folder.mkdir()
    (tmp_path / ".loratory").mkdir()
    (tmp_path / ".loratory" / "dataset.toml").write_text(_SETTINGS, "utf-8")
    FAULTS[fault](folder)
    rule = fault.partition(" ")[0]
    assert rule in mend(tmp_path), sorted({(each.rule, each.message) for each in look(tmp_path)[0]})
    left = [(each.rule, each.item, each.message) for each in look(tmp_path)[0] if each.automatic_fix is not None]
    assert left == []
