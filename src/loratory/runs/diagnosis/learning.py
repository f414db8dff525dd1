"""The adapter is not learning: rates, gradients or weights that stand still."""

from collections.abc import Iterator

from loratory.dataset.findings import shown
from loratory.runs.diagnosis.alarm import Told, join
from loratory.runs.diagnosis.seen import Seen
from loratory.runs.events import Started, Step, Weights

# Schedules begin, and some end, at a rate of 0 for a step or two.
_STEPS_AT_ZERO = 20
# Weights that have not moved by this share in three measurements, at a rate over a tenth of the highest, stand still.
_STILL, _MEASUREMENTS, _OF_HIGHEST_RATE = 1e-6, 3, 0.1
# An adaptive optimizer that begins so low, and has not grown so far after so many steps, has found no rate.
_TINY, _GROWN, _STEPS_TO_GROW, _SHARE_TO_GROW = 1e-5, 10.0, 100, 0.1


class NotLearning:
    """Tells each thing once for each trained part, and again after it had moved in between."""

    def __init__(self) -> None:
        self._total = 0
        self._at_zero: dict[str, int] = {}  # steps in a row; "" stands for the gradient
        self._highest: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._norms: dict[str, list[float]] = {}
        self._first_size: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()

    def add(self, seen: Seen) -> Iterator[Told]:
        match seen.event:
            case Started(total_steps=total):
                self.__init__()
                self._total = total
            case Step() as step:
                yield from self._judge_rates(step)
                yield from self._judge_gradient(step)
                yield from self._judge_step_sizes(step)
            case Weights() as weights:
                yield from self._judge_weights(weights)
            case _:
                pass

    def _judge_rates(self, step: Step) -> Iterator[Told]:
        self._rates = step.effective_lr or step.lr
        for part, rate in self._rates.items():
            self._highest[part] = max(rate, self._highest.get(part, 0.0))
            self._count(part, "rate", rate == 0.0)
        # From the first step on the parts stand still together, and are told together.
        still = [part for part in self._rates if self._at_zero.get(part, 0) >= _STEPS_AT_ZERO]
        new = [part for part in still if self._once(part, "rate")]
        if new:
            everything = len(still) == len(self._rates)
            yield Told(
                "not-learning",
                "error" if everything else "warning",
                f"The learning rate of {join([_spoken(part) for part in new])} has been 0 for {_STEPS_AT_ZERO} steps: "
                + ("nothing is learned. " if everything else "that part learns nothing. ")
                + "Set a rate above 0, or look at the schedule.",
            )

    def _judge_gradient(self, step: Step) -> Iterator[Told]:
        self._count("", "gradient", step.grad_norm == 0.0)
        if self._at_zero[""] >= _STEPS_AT_ZERO and self._once("", "gradient"):
            yield Told(
                "not-learning",
                "error",
                f"The gradient has been 0 for {_STEPS_AT_ZERO} steps, so that nothing is learned: the pictures are "
                "masked away, the loss is weighted with 0, or fp16 rounds it to nothing (train in bf16).",
            )

    def _judge_step_sizes(self, step: Step) -> Iterator[Told]:
        late = step.step >= max(_STEPS_TO_GROW, _SHARE_TO_GROW * self._total)
        stuck: dict[str, tuple[float, float]] = {}
        for part, effective in step.effective_lr.items():
            rate = step.lr.get(part, 0.0)
            if not rate > 0.0 or not effective > 0.0 or effective == rate:
                continue
            size = effective / rate
            first = self._first_size.setdefault(part, size)
            if late and first <= _TINY and size < _GROWN * first and self._once(part, "size"):
                stuck[part] = first, size
        if stuck:
            parts = join([_spoken(part) for part in stuck])
            rates = "its learning rate" if len(stuck) == 1 else "their learning rates"
            # One optimizer has one d for all of them, as a rule.
            sizes = list(dict.fromkeys(f"{size:.1e}, from {first:.1e} at the start" for first, size in stuck.values()))
            yield Told(
                "not-learning",
                "warning",
                f"The optimizer has found no rate for {parts} in {step.step} steps: its d is {'; '.join(sizes)}. "
                f"Raise d0 or d_coef, and leave {rates} at 1.",
            )

    def _judge_weights(self, weights: Weights) -> Iterator[Told]:
        for part, norm in weights.norms.items():
            history = self._norms.setdefault(part, [])
            history.append(norm)
            del history[:-_MEASUREMENTS]
            rate, highest = self._rates.get(part, 0.0), self._highest.get(part, 0.0)
            moved = max(history) - min(history) > _STILL * max(history)
            if moved:
                self._told.discard((part, "weights"))
            # At a rate of 0 that has been told, or is the end of the schedule.
            if moved or len(history) < _MEASUREMENTS or not rate > _OF_HIGHEST_RATE * highest:
                continue
            if self._once(part, "weights"):
                how = "are still 0" if norm == 0.0 else "no longer change"
                yield Told(
                    "not-learning",
                    "warning",
                    f"What {_spoken(part)} adds to the model stands still: its weights {how} at step {weights.step}, "
                    f"at a rate of {rate:.1e}. The rate is too low, or its precision too coarse for such small steps.",
                )

    def _count(self, part: str, what: str, is_zero: bool) -> None:
        self._at_zero[part] = self._at_zero.get(part, 0) + 1 if is_zero else 0
        if not is_zero:
            self._told.discard((part, what))

    def _once(self, part: str, what: str) -> bool:
        if (part, what) in self._told:
            return False
        self._told.add((part, what))
        return True


def _spoken(part: str) -> str:
    """`unet` as `the UNet`, `text_encoder_2_up` as `the text encoder 2 up`."""
    return f"the {shown(part).replace('unet', 'UNet').replace('_', ' ')}"
