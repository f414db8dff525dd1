"""A plan as plain data, for JSON and for screens that are drawn in another process."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from loratory.config.lint import Facts, FolderFacts
from loratory.config.schema.network import USED_BY

if TYPE_CHECKING:
    from loratory.training.measure import Measured
    from loratory.training.plan import Part, Plan

_CURVE_POINTS = 200  # a divisor of the 1000 timesteps
_DRAWS = 10


def plan_report(plan: "Plan") -> dict[str, Any]:
    """What `loratory plan --json` prints: plain values only."""
    info, length = plan.info, plan.length
    folders = [folder for folder in plan.dataset.folders if not folder.is_reg]
    trained = Counter(image.folder for image in plan.images)
    return {
        "model": {
            "path": str(info.path),
            "family": info.family,
            "prediction_type": info.prediction_type,
            "zero_terminal_snr": info.zero_terminal_snr,
            "reasons": list(info.reasons),
        },
        "folders": [
            {
                "name": folder.name,
                "images": trained[folder.name],
                "repeats": folder.repeats,
                "per_epoch": trained[folder.name] * folder.repeats,
                "exposure": exposure,
            }
            for folder, exposure in zip(folders, length.exposures, strict=True)
        ],
        "buckets": [{"width": w, "height": h, "visits_per_epoch": count} for (w, h), count in plan.buckets],
        "regularization": _regularization(plan),
        "held_back": len(plan.held_back),
        "images_per_epoch": plan.images_per_epoch,
        "batches_per_epoch": plan.batches_per_epoch,
        "steps_per_epoch": plan.steps_per_epoch,
        "epochs": length.epochs,
        "total_steps": length.total_steps,
        "network": [_network(plan, part) for part in plan.parts],
        "saves": plan.saves,
        "save_bytes": plan.save_bytes,
        "state_bytes": plan.state_bytes,
        "disk_bytes": plan.disk_bytes,
        "curves": _curves(plan),
        "advice": [dataclasses.asdict(each) for each in plan.advice],
        "warnings": list(plan.warnings),
        "findings": [
            {"rule": f.rule, "severity": f.severity, "path": str(f.path or ""), "message": f.message}
            for f in plan.dataset.findings
        ],
    }


def _network(plan: "Plan", part: "Part") -> dict[str, Any]:
    """rank, scale: of linear layers; conv_rank, conv_scale: of convolutions larger than 1x1; None where none is
    trained, for types without rank and alpha, and where they differ between layers: rank_varies. The scale is
    alpha / rank, or what the settings make of it."""
    network = plan.config.network
    has_ranks = network.network_type in USED_BY["network_alpha"] and not network.full_matrix
    mine = [
        target for target in plan.targets if has_ranks and target.component in part.components and not target.is_norm
    ]
    linear = {(target.rank, target.scale) for target in mine if not target.is_conv}
    conv = {(target.rank, target.scale) for target in mine if target.is_conv}
    varies = len(linear) > 1 or len(conv) > 1
    rank, scale = next(iter(linear), (None, None)) if not varies else (None, None)
    conv_rank, conv_scale = next(iter(conv), (None, None)) if not varies else (None, None)
    return {
        "part": part.name,
        "learning_rate": part.lr if part.modules else 0.0,
        "modules": part.modules,
        "parameters": part.parameters,
        "rank": rank,
        "scale": scale,
        "conv_rank": conv_rank,
        "conv_scale": conv_scale,
        "rank_varies": varies,
    }


def measured_report(plan: "Plan", measured: "Measured") -> dict[str, Any]:
    """A trial run as plain values, with the time that the whole run is expected to take."""
    steps_s = measured.step_s * plan.length.total_steps
    return {**dataclasses.asdict(measured), "expected_s": measured.load_s + steps_s}


def caption_draws(plan: "Plan") -> dict[str, list[str]]:
    """Captions of the first picture of each folder as ten epochs would train them."""
    from loratory.editing.simulate import simulate

    length = plan.length
    steps = [
        length.epoch_start(epoch) if epoch <= length.epochs else length.total_steps for epoch in range(1, _DRAWS + 1)
    ]
    first: dict[str, int] = {}
    for index, image in enumerate(plan.images):
        first.setdefault(image.folder, index)
    return {
        f"{folder}/{plan.images[index].path.name}": [
            draw.text
            for draw in simulate(
                plan.images[index].caption,
                plan.images[index].treatment.caption,
                draws=_DRAWS,
                seed=plan.config.training.seed,
                visit=(index, 0),
                steps=steps,
                max_steps=length.total_steps,
            )
        ]
        for folder, index in first.items()
    }


def facts_report(facts: Facts) -> dict[str, Any]:
    """The facts of a plan as plain values, which `facts_from` reads back."""
    plain = dataclasses.asdict(facts)
    if facts.trained is not None:
        plain["trained"] = sorted(facts.trained)
    if facts.buckets is not None:
        plain["buckets"] = [[*size, count] for size, count in facts.buckets.items()]
    return plain


def facts_from(report: Mapping[str, Any]) -> Facts:
    """The facts that `facts_report` wrote."""
    values = dict(report)
    if values["folders"] is not None:
        folders = cast("list[dict[str, Any]]", values["folders"])
        values["folders"] = tuple(FolderFacts(**folder) for folder in folders)
    if values["trained"] is not None:
        values["trained"] = frozenset(values["trained"])
    if values["mirrored_folders"] is not None:
        values["mirrored_folders"] = tuple(values["mirrored_folders"])
    if values["buckets"] is not None:
        buckets = cast("list[list[int]]", values["buckets"])
        values["buckets"] = {(width, height): count for width, height, count in buckets}
    return Facts(**values)


def _regularization(plan: "Plan") -> dict[str, Any] | None:
    """How the regularization pictures are used; None without any."""
    if not plan.has_reg:
        return None
    epochs = min(plan.length.epochs, 1000)  # a longer run uses them no less evenly
    used = Counter(visit.image for epoch in range(1, epochs + 1) for visit in plan.order.reg_visits(epoch))
    images = [index for index, is_reg in enumerate(plan.order.is_reg) if is_reg]
    counts = [used[index] for index in images]
    return {
        "images": len(images),
        "visits_per_epoch": len(plan.order.reg_visits(1)),
        "used": sum(count > 0 for count in counts),
        "fewest_visits": min(counts),
        "most_visits": max(counts),
        "epochs": epochs,
        "weight": plan.config.loss.prior_loss_weight,
    }


def _curves(plan: "Plan") -> dict[str, list[float]]:
    """The learning rate's factor over the run, and how much each timestep counts: weight of its loss times how often
    it is drawn."""
    import torch

    from loratory.training.loss import loss_weights
    from loratory.training.noise import make_schedule
    from loratory.training.schedule import lr_multiplier
    from loratory.training.timesteps import timestep_density

    config, total = plan.config, plan.length.total_steps
    points = min(total, _CURVE_POINTS)
    rates = [lr_multiplier(config.optimizer, index * total // points, total) for index in range(points)]
    schedule = make_schedule(
        zero_terminal_snr=plan.info.zero_terminal_snr, kohya_compatible=config.compatibility == "kohya"
    )
    weights = loss_weights(
        torch.arange(1000), schedule, config.loss, v_prediction=plan.info.prediction_type == "v_prediction"
    )
    counted = weights * timestep_density(config.noise)
    averaged = counted.view(-1, 1000 // _CURVE_POINTS).mean(dim=1)
    return {"learning_rate_factor": rates, "loss_weight_by_timestep": averaged.tolist()}
