"""What the rules about settings may know of a planned run."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loratory.config.lint import Facts, FolderFacts
from loratory.dataset.findings import shown
from loratory.dataset.scan import TrainImage
from loratory.models.components import component_configs
from loratory.models.detect import ModelInfo

if TYPE_CHECKING:
    from loratory.training.plan import Plan

_PUBLISHED_WIDTH = 320  # channels of the UNet's first block, in all three families
_NATIVE_PX = {"sd1": 512, "sd2": 512, "sdxl": 1024}


def facts_of(plan: "Plan") -> Facts:
    """The facts of a plan, for `config.lint.lint`."""
    folders = [folder for folder in plan.dataset.folders if not folder.is_reg]
    trained = Counter(image.path.parent for image in plan.images)
    return Facts(
        family=plan.info.family,
        prediction_type=plan.info.prediction_type,
        declared_prediction_type=plan.info.declared_prediction_type,
        zero_terminal_snr=plan.info.zero_terminal_snr,
        native_resolution_px=native_resolution_px(plan.info),
        trained=frozenset(target.component for target in plan.targets),
        concepts=len({folder.class_tokens for folder in folders}),
        folders=tuple(
            FolderFacts(shown(folder.name), trained[folder.path], folder.repeats, exposure, _tags(folder.images))
            for folder, exposure in zip(folders, plan.length.exposures, strict=True)
            if trained[folder.path]
        ),
        mirrored_folders=tuple(shown(folder.name) for folder in folders if folder.treatment.flip_aug),
        buckets=dict(plan.buckets),
        train_images=sum(not image.is_reg for image in plan.images),
        reg_images=sum(image.is_reg for image in plan.images),
        validation_images=len(plan.held_back),
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.length.total_steps,
    )


def native_resolution_px(info: ModelInfo) -> int | None:
    """The side of the square a base model was made for; None for models of other sizes, such as the embedded one."""
    if component_configs(info)["unet"].get("block_out_channels", [0])[0] != _PUBLISHED_WIDTH:
        return None
    if info.family == "sd2" and info.prediction_type == "v_prediction":
        return 768
    return _NATIVE_PX[info.family]


def _tags(images: Sequence[TrainImage]) -> dict[str, int]:
    """How many captions hold each tag."""
    counts: Counter[str] = Counter()
    for image in images:
        separator = image.treatment.caption.caption_separator
        counts.update({shown(tag) for part in image.caption.split(separator) if (tag := part.strip())})
    return dict(counts)
