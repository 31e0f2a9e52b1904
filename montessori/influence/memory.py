"""How much memory an estimator needs at most, and the token budget that fits into what there is.

In: a student's shape (`models.skeleton`), the points and the reference set.  Out: bytes; a budget. Nothing is loaded.

    peak = kept + max(aside, the largest batch's activations + gradient)

With P parameters and T trainable ones, G of them in the largest, w bytes each (the student's dtype), m, v and ∇L in
s bytes each (`influence.state_dtype`), and B or F the activations of a batch with or without a backward pass:

| | kept | aside | activations + gradient |
| --- | --- | --- | --- |
| taylor | Pw + 3Ts | 12G, or 24G for s = 2 | B(batch) + Gw |
| directional | Pw + 2Ts + Tw + 4T | Ts + 16G | B(longest of 8 reference rows) + Ts + 8G, F(batch) |
| exact | Pw + 2Ts + Tw | Tw + 8G, or 20G for s = 2 | B(longest point) + Gw, F(reference batch) + Tw |
| gradient (∇L itself) | Pw + 12T | Tw | B(reference batch) + Gw |

B is a·tokens + b·answer tokens, F the larger of the two, with an a and a b of its own. They are read off a run of the
student on tensors without storage, so that they hold for any architecture. docs/results.md has the formula against
measurements.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import trainable_parameters
from montessori.influence.batches import Batch, Padded, answer_tokens, plan
from montessori.influence.directional import typical
from montessori.influence.per_sample import PerSampleGradients
from montessori.influence.reference import device_of, padded_losses

log = logging.getLogger(__name__)

Work = Literal["taylor", "directional", "exact", "gradient"]

MARGIN = 0.9  # of what is free: the rest is for fragments, and for what others take meanwhile
PROBE_ROWS, PROBE_WIDTH = 64, 16  # many short rows: without storage, transformers makes a mask that grows with width²


@dataclass(frozen=True)
class Activations:
    """What one pass over a batch needs at most, beside what is kept."""

    per_token: float  # bytes a padded token: its way through the layers
    per_answer: float  # bytes an answer token: its logits
    backward: bool  # both are there at the same time; without, the layers' are gone when the logits come
    gradient: int = 0  # bytes of the parameters' gradients that live at the same time

    def of(self, batch: Batch) -> int:
        """Bytes for `batch`."""
        layers = len(batch) * max(len(example.input_ids) for example in batch) * self.per_token
        logits = sum(map(answer_tokens, batch)) * self.per_answer
        return round(layers + logits if self.backward else max(layers, logits)) + self.gradient


@dataclass(frozen=True)
class Memory:
    """What an estimator needs, bytes; the module's table has the formulas."""

    work: Work
    kept: int  # from the first point to the last
    aside: int  # for a while, when no activations are there
    points: Activations | None  # of a batch of points; of one point for `exact`
    reference: Activations | None  # of a batch of the reference set; of one row for `directional`

    def peak(self, points: Sequence[Example], reference: Sequence[Example], token_budget: int) -> int:
        """Bytes at the worst moment, in batches of `token_budget` padded tokens."""
        passes = [self.aside]
        if self.points:
            batches = [[point] for point in points] if self.work == "exact" else plan(points, token_budget)
            passes += map(self.points.of, batches)
        if self.reference:
            rows = (
                [[row] for row in typical(reference)] if self.work == "directional" else plan(reference, token_budget)
            )
            passes += map(self.reference.of, rows)
        return self.kept + max(passes)


def estimate(
    model: Any, work: Work, state_dtype: torch.dtype = torch.float32, moments: int = 2, longest: int = 1024
) -> Memory:
    """What `work` needs with a student like `model`, which may be one without storage (`models.skeleton`).

    `moments` is how many tensors the optimiser keeps of each parameter: two for AdamW, none for plain descent.
    `longest`, in tokens, matters where attention takes memory by its square.
    """
    parameters = trainable_parameters(model).values()
    weights = sum({id(p): p.nbytes for p in model.parameters()}.values())
    trained, own = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)
    largest, largest_own = max(p.numel() for p in parameters), max(p.nbytes for p in parameters)
    state, gradient = moments * trained * state_dtype.itemsize, trained * state_dtype.itemsize
    widened = 12 * largest if state_dtype.itemsize < 4 else 0  # three of g, m, v and ∇L, in float32

    def activations(backward: bool, gradient: int) -> Activations:
        return Activations(*_coefficients(model, backward, longest), backward, gradient)

    if work == "taylor":
        alone = 0 if PerSampleGradients(model).shared else own  # all gradients of a point at once
        aside = max(alone, 12 * largest + widened)
        return Memory(work, weights + state + gradient, aside, activations(True, largest_own), None)
    if work == "directional":
        kept = weights + state + own + 4 * trained
        rows = activations(True, gradient + 8 * largest)
        return Memory(work, kept, gradient + 16 * largest, activations(False, 0), rows)
    if work == "exact":
        point, reference = activations(True, largest_own), activations(False, own)
        return Memory(work, weights + state + own, own + 8 * largest + widened, point, reference)
    return Memory(work, weights + (moments + 1) * 4 * trained, own, None, activations(True, largest_own))


def token_budget_that_fits(
    memory: Memory, points: Sequence[Example], reference: Sequence[Example], wanted: int, available: int
) -> int:
    """The largest of `wanted` and smaller token budgets whose worst batch fits into `available` bytes.

    Raises InputError when not even one example at a time does.
    """
    longest = max((len(example.input_ids) for example in [*points, *reference]), default=0)
    budget = wanted
    while (needed := memory.peak(points, reference, budget)) > available:
        if budget <= longest:
            raise InputError(
                f"not enough memory: {memory.work} needs {_gb(needed)} for this student one example at a time "
                f"({_gb(memory.kept)} of it whatever the examples; the longest has {longest} tokens), and "
                f"{_gb(available)} is free: {ADVICE[memory.work]}, lower the maximum length, train "
                "adapters, or take a larger GPU"
            )
        budget = max(longest, budget * 3 // 4)
    if budget < wanted:
        log.warning("token_budget is lowered from %d to %d: %s is free", wanted, budget, _gb(available))
    return budget


ADVICE: dict[Work, str] = {
    "taylor": "hold the state in bfloat16 (--state-dtype; in a run's settings influence.state_dtype)",
    "directional": "use the estimator taylor, hold the state in bfloat16 (--state-dtype, influence.state_dtype)",
    "exact": "use the estimator taylor, hold the state in bfloat16 (--state-dtype, influence.state_dtype)",
    "gradient": "load the student in bfloat16 (--dtype; in a run's settings student.dtype)",
}


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def available_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """What a process may still take on `device`: of a GPU, or of this machine and the container it is in."""
    if device.type == "cuda":
        return int(MARGIN * torch.cuda.mem_get_info(device)[0])
    return int(MARGIN * min([_free_memory(root), *_left_in_container(root)]))


def _free_memory(root: Path) -> int:
    """What the machine could give; all it has, where the system does not say (as macOS)."""
    file = root / "proc/meminfo"
    for line in file.read_text().splitlines() if file.is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_container(root: Path) -> Iterator[int]:
    """What the limits of control groups leave, bytes: version 2 and version 1, this process's group and those above."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        own = top / group.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and (folder / limit).is_file() and (folder / used).is_file():
                most = (folder / limit).read_text().strip()
                if most != "max":
                    yield max(0, int(most) - int((folder / used).read_text()) + _reclaimable(folder))


def _reclaimable(group: Path) -> int:
    """The file cache that the kernel gives up first; it counts as used."""
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return next((int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file")), 0)


class Tracker(TorchDispatchMode):
    """The bytes of the tensors that operations inside the block make, while they live. Views count once."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.now = self.peak = 0
        self._known: set[int] = set()

    def watch(self, tensors: Iterable[Any]) -> None:
        """Count the storages of `tensors` from now on, until they are freed."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or (storage := tensor.untyped_storage())._cdata in self._known:
                continue
            self._known.add(storage._cdata)
            finalize(storage, self._freed, storage._cdata, storage.nbytes())
            self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.watch(tree_leaves(made))
        return made


def _coefficients(model: Any, backward: bool, longest: int) -> tuple[float, float]:
    """Bytes of activations a padded token and an answer token; zeros, with a warning, where they cannot be foreseen."""
    squared = model.config._attn_implementation == "eager"
    rows, width = (1, longest) if squared else (PROBE_ROWS, PROBE_WIDTH)
    try:
        few, many = (_activations(model, rows, width, answers, backward) for answers in (1, width - 1))
    except RuntimeError as error:  # an operation that needs values, or has no shape rule
        log.warning("the activations of this student cannot be foreseen, only its weights and state: %s", error)
        return 0.0, 0.0
    if not backward:
        return few / (rows * width), many / (rows * (width - 1))
    per_answer = (many - few) / (rows * (width - 2))
    return (few - rows * per_answer) / (rows * width), per_answer


def _activations(model: Any, rows: int, width: int, answers: int, backward: bool) -> int:
    """The peak of a pass over `rows` examples with `answers` answer tokens each, bytes."""
    batch = Padded.of([Example("", [0] * width, width - answers)] * rows, device_of(model))
    embedded: list[Tensor] = []
    tracker = Tracker()
    with _mode_of(model), tracker:
        tracker.watch([*model.parameters(), *model.buffers()])
        before = tracker.now
        # Autograd then keeps each trainable layer's input, as the estimators do, and makes no parameter's gradient.
        hook = model.get_input_embeddings().register_forward_hook(
            lambda *call: embedded.append(call[2].requires_grad_())
        )
        with hook, torch.set_grad_enabled(backward):
            loss = padded_losses(model, batch).sum()
            if backward:
                torch.autograd.grad(loss, embedded)
        return tracker.peak - before


def _mode_of(model: Any) -> AbstractContextManager[Any]:
    """The mode in which a model without storage computes; of another model, none."""
    parameter = next(model.parameters())
    mode: AbstractContextManager[Any] = parameter.fake_mode if isinstance(parameter, FakeTensor) else nullcontext()
    return mode
