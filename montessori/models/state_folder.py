"""Find the optimizer state in a folder, and check it by names and headers, before any heavy library is imported.

Two forms are known. The own form is safetensors and JSON, as `OptimizerState.save` writes them. The torch form is a
`state_dict()` in one file, as a transformers Trainer (`optimizer.pt`) and accelerate's `save_state` (`optimizer.bin`)
write it.
"""

import json
import math
from pathlib import Path
from typing import Any

from montessori.errors import InputError
from montessori.models.folder import tensor_shapes

OWN_FILES = ("optimizer.safetensors", "optimizer.json")  # as in montessori.influence.adamw, which imports torch
TORCH_FILES = ("optimizer.pt", "optimizer.bin")
SECOND = ("optimizer_1.bin",)  # accelerate's, of a second optimizer
TRAINER = "trainer_state.json"  # marks the checkpoint of a transformers Trainer

# File names of states in a form that is not read, and the sentence that says how to get one that is.
UNREAD = {
    "zero_to_fp32.py": "DeepSpeed",
    "latest_universal": "DeepSpeed",
    "global_step*": "DeepSpeed",
    "*_optim_states.pt": "DeepSpeed",
    "optimizer_0": "sharded FSDP",
    "optimizer_rank*.bin": "sharded FSDP",
    "*.distcp": "sharded FSDP",
}
ADVICE = {
    "DeepSpeed": "its moments lie in flat shards that only DeepSpeed can join; in the training script get each "
    "parameter's moments with deepspeed.utils.safe_get_full_optimizer_state, and save them with OptimizerState.save",
    "sharded FSDP": "save the state in one piece (fsdp_state_dict_type: FULL_STATE_DICT), or in the training script "
    "with OptimizerState.of(optimizer, model).save",
}


def is_own(folder: Path) -> bool:
    """Tell whether `folder` holds a state in the own form."""
    return all((folder / name).is_file() for name in OWN_FILES)


def state_files(folder: Path) -> list[Path]:
    """Return the files of the state in `folder`. Raises InputError when it has none, or one that cannot be read."""
    if is_own(folder):
        return [folder / name for name in OWN_FILES]
    files = [folder / name for name in (*TORCH_FILES, *SECOND) if (folder / name).is_file()]
    if len(files) > 1:
        raise InputError(
            f"{folder}: it has {' and '.join(file.name for file in files)}; influence follows one optimiser for all "
            "parameters, so give a folder with the student's alone"
        )
    if files:
        return files + [folder / TRAINER] * (folder / TRAINER).is_file()
    for pattern, form in UNREAD.items():
        if found := next(folder.glob(pattern), None):
            raise InputError(f"{folder}: its optimiser state is of {form} ({found.name}): {ADVICE[form]}")
    raise InputError(
        f"{folder}: no optimiser state in it; expected is {' and '.join(OWN_FILES)} (OptimizerState.save), "
        f"{TORCH_FILES[0]} (a Trainer's checkpoint) or {TORCH_FILES[1]} (accelerate's save_state)"
    )


def check_own(folder: Path, student: Path) -> dict[str, Any]:
    """Return the scalars of a state in the own form, whose moments fit the weights of `student`.

    Raises InputError where a moment differs in shape from the weight of its name. Names in only one of them are
    ignored: the names of a loaded model may differ from its file's.
    """
    tensors, scalars = (folder / name for name in OWN_FILES)
    moments = {name.removeprefix("exp_avg."): shape for name, shape in tensor_shapes(tensors).items()}
    for file in sorted(student.glob("*.safetensors")):
        for name, shape in tensor_shapes(file).items():
            if moments.get(name, shape) != shape:
                raise InputError(
                    f"{folder}: the optimiser state is of another model: {name} is {moments[name]} there, "
                    f"{shape} in {student}; give the state that this student's training left"
                )
    try:
        content: dict[str, Any] = json.loads(scalars.read_text(encoding="utf-8"))
        float(content["learning_rate"]), int(content["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{scalars}: not the scalars of an optimiser state ({error!r}); save it again") from None
    return content


def check_scalars(folder: Path, step: int, learning_rate: float, replaced: bool) -> None:
    """Raise InputError for a state that has taken no step, or has no usable learning rate although none replaces it."""
    if step < 1:
        raise InputError(f"{folder}: the optimiser state has taken no step; give the state after some training")
    if not replaced and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(
            f"{folder}: the learning rate in the optimiser state is {learning_rate:g}, and a step needs one above 0 "
            "(a finished schedule leaves 0); give the rate of the step with --learning-rate"
        )
