"""Predict the memory that an estimator needs, and choose a token budget that fits.

In: a student's shape (`models.loading.skeleton`), the points and the reference set.  Out: bytes; a budget. Nothing is
loaded.

    peak = resident + max(temporary, the largest batch's activations + gradient)

The student has P parameters, T of them trainable, and G in the largest trainable one. Its weights take w bytes each (by
the student's dtype), and m, v and ∇L take s bytes each (by `influence.state_dtype`). B and F are the activations of a
batch with and without a backward pass:

| | resident | temporary | activations + gradient |
| --- | --- | --- | --- |
| taylor | Pw + 3Ts | 12G, or 24G for s = 2 | B(batch) + Gw |
| directional | Pw + 2Ts + Tw + 4T | Ts + 16G | B(longest of 8 reference rows) + Ts + 8G, F(batch) |
| exact | Pw + 2Ts + Tw | Tw + 8G, or 20G for s = 2 | B(longest point) + Gw, F(reference batch) + Tw |
| gradient (∇L itself) | Pw + 12T | Tw | B(reference batch) + Gw |

B is a·tokens + b·answer tokens. F is the larger of the two, with an a and a b of its own. A run of the student on
tensors without storage gives a and b, so the formula holds for any architecture. docs/results/influence-memory.md
compares it with measurements.
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
from montessori.influence.batches import Batch, PaddedBatch, answer_tokens, make_batches
from montessori.influence.directional import typical_examples
from montessori.influence.per_sample import PerSampleGradients
from montessori.influence.reference import batch_losses, device_of

log = logging.getLogger(__name__)

Work = Literal["taylor", "directional", "exact", "gradient"]

MARGIN = 0.9  # share of the free memory to use; the rest is for fragmentation and for other processes
PROBE_ROWS, PROBE_WIDTH = 64, 16  # many short rows: without storage, transformers builds a mask that grows with width²


@dataclass(frozen=True)
class Activations:
    """Hold the most memory that one pass over a batch takes beside the resident memory."""

    per_token: float  # bytes for each padded token, in the layers
    per_answer: float  # bytes for each answer token, for its logits
    backward: bool  # with a backward pass both live at once; without it the layers' are freed before the logits exist
    gradient: int = 0  # bytes of the parameter gradients that live at the same time

    def bytes_for(self, batch: Batch) -> int:
        """Return the bytes for `batch`."""
        layers = len(batch) * max(len(example.input_ids) for example in batch) * self.per_token
        logits = sum(map(answer_tokens, batch)) * self.per_answer
        return round(layers + logits if self.backward else max(layers, logits)) + self.gradient


@dataclass(frozen=True)
class Memory:
    """Hold the memory of an estimator in bytes. The module's table has the formulas."""

    work: Work
    resident: int  # bytes from the first point to the last
    temporary: int  # bytes that live while no activations do
    points: Activations | None  # for a batch of points; `exact` takes one point at a time
    reference: Activations | None  # for a batch of the reference set; `directional` takes one row at a time

    def peak(self, points: Sequence[Example], reference: Sequence[Example], token_budget: int) -> int:
        """Return the bytes at the worst moment, in batches of `token_budget` padded tokens."""
        passes = [self.temporary]
        if self.points:
            batches = [[point] for point in points] if self.work == "exact" else make_batches(points, token_budget)
            passes += map(self.points.bytes_for, batches)
        if self.reference:
            rows = (
                [[row] for row in typical_examples(reference)]
                if self.work == "directional"
                else make_batches(reference, token_budget)
            )
            passes += map(self.reference.bytes_for, rows)
        return self.resident + max(passes)


def estimate_memory(
    model: Any, work: Work, state_dtype: torch.dtype = torch.float32, *, moments: int = 2, longest: int = 1024
) -> Memory:
    """Return the memory that `work` needs with a student like `model`, which may be one without storage.

    `moments` counts the tensors that the optimizer keeps for each parameter: two for AdamW, none for plain gradient
    descent. `longest`, in tokens, matters where attention takes memory by the square of the length.
    """
    parameters = trainable_parameters(model).values()
    weights = sum({id(p): p.nbytes for p in model.parameters()}.values())
    trained, own = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)
    largest, largest_own = max(p.numel() for p in parameters), max(p.nbytes for p in parameters)
    state, gradient = moments * trained * state_dtype.itemsize, trained * state_dtype.itemsize
    widened = 12 * largest if state_dtype.itemsize < 4 else 0  # float32 copies of m, v and ∇L of one parameter

    def activations(backward: bool, gradient: int) -> Activations:
        return Activations(*_coefficients(model, backward, longest), backward, gradient)

    if work == "taylor":
        point_gradients = 0 if PerSampleGradients(model).one_pass else own  # autograd holds all of a point's at once
        temporary = max(point_gradients, 12 * largest + widened)
        points = activations(True, largest_own)
        return Memory(work, resident=weights + state + gradient, temporary=temporary, points=points, reference=None)
    if work == "directional":
        resident = weights + state + own + 4 * trained
        points, rows = activations(False, 0), activations(True, gradient + 8 * largest)
        return Memory(work, resident=resident, temporary=gradient + 16 * largest, points=points, reference=rows)
    if work == "exact":
        points, rows = activations(True, largest_own), activations(False, own)
        temporary = own + 8 * largest + widened
        return Memory(work, resident=weights + state + own, temporary=temporary, points=points, reference=rows)
    resident = weights + (moments + 1) * 4 * trained
    return Memory(work, resident=resident, temporary=own, points=None, reference=activations(True, largest_own))


def fit_token_budget(
    memory: Memory, points: Sequence[Example], reference: Sequence[Example], *, wanted: int, available: int
) -> int:
    """Return the largest token budget up to `wanted` whose worst batch fits into `available` bytes.

    Raises InputError when not even one example at a time fits.
    """
    longest = max((len(example.input_ids) for example in [*points, *reference]), default=0)
    budget = wanted
    while (needed := memory.peak(points, reference, budget)) > available:
        if budget <= longest:
            raise InputError(
                f"not enough memory: {memory.work} needs {_gb(needed)} for this student one example at a time "
                f"({_gb(memory.resident)} of it whatever the examples; the longest has {longest} tokens), and "
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
    """Return the bytes that a process may still take on `device`: of a GPU, or of this machine and its container."""
    if device.type == "cuda":
        return int(MARGIN * torch.cuda.mem_get_info(device)[0])
    return int(MARGIN * min([_free_memory(root), *_container_headroom(root)]))


def _free_memory(root: Path) -> int:
    """Return the machine's available memory in bytes, or all its memory where the system does not report it (macOS)."""
    file = root / "proc/meminfo"
    for line in file.read_text().splitlines() if file.is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_headroom(root: Path) -> Iterator[int]:
    """Yield the bytes that each control group's limit leaves, in versions 1 and 2.

    The groups are this process's own and those above it.
    """
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
    """Return the bytes of file cache that the kernel frees first. Control groups count it as used."""
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return next((int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file")), 0)


class MemoryTracker(TorchDispatchMode):
    """Count the bytes of live tensors that operations inside the block create. Views count once."""

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
        result = func(*args, **(kwargs or {}))
        self.watch(tree_leaves(result))
        return result


def _coefficients(model: Any, backward: bool, longest: int) -> tuple[float, float]:
    """Return the bytes of activations for each padded token and each answer token.

    Logs a warning and returns zeros where they cannot be predicted.
    """
    squared = model.config._attn_implementation == "eager"
    rows, width = (1, longest) if squared else (PROBE_ROWS, PROBE_WIDTH)
    try:
        few, many = (
            _activations(model, rows=rows, width=width, answers=answers, backward=backward)
            for answers in (1, width - 1)
        )
    except RuntimeError as error:  # an operation needs values, or has no rule for shapes alone
        log.warning("the activations of this student cannot be foreseen, only its weights and state: %s", error)
        return 0.0, 0.0
    if not backward:
        return few / (rows * width), many / (rows * (width - 1))
    per_answer = (many - few) / (rows * (width - 2))
    return (few - rows * per_answer) / (rows * width), per_answer


def _activations(model: Any, *, rows: int, width: int, answers: int, backward: bool) -> int:
    """Return the peak bytes of a pass over `rows` examples with `answers` answer tokens each."""
    batch = PaddedBatch.of([Example("", [0] * width, width - answers)] * rows, device_of(model))
    embedded: list[Tensor] = []
    tracker = MemoryTracker()
    with _mode_of(model), tracker:
        tracker.watch([*model.parameters(), *model.buffers()])
        before = tracker.now
        # With the embeddings as leaves autograd keeps each layer's input, as in the estimators, and no parameter's
        # gradient.
        hook = model.get_input_embeddings().register_forward_hook(
            lambda *call: embedded.append(call[2].requires_grad_())
        )
        with hook, torch.set_grad_enabled(backward):
            loss = batch_losses(model, batch).sum()
            if backward:
                torch.autograd.grad(loss, embedded)
        return tracker.peak - before


def _mode_of(model: Any) -> AbstractContextManager[Any]:
    """Return the mode in which a model without storage computes, or a null context for another model."""
    parameter = next(model.parameters())
    mode: AbstractContextManager[Any] = parameter.fake_mode if isinstance(parameter, FakeTensor) else nullcontext()
    return mode
