"""Trainings in two processes: what they leave is what one process leaves, and a process that dies takes no harm along.

The tolerances: between the two only the order of float32 sums differs. Measured over full, tied, LoRA and checkpointed
models with two and four processes, the largest difference was 5e-7 nats of a loss, 6e-6 of a sum of log-probabilities
of 87, 2e-6 of a weight and 2e-8 of a moment, after eight steps at a learning rate of 0.01.
"""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from montessori import progress
from montessori.artifacts import Folder, Request
from montessori.data import sources
from montessori.data.chat import user
from montessori.data.rows import write_rows
from montessori.errors import StageError
from montessori.influence import OptimizerState
from montessori.models import loading
from montessori.settings.execution import Compute
from montessori.settings.models import Lora
from montessori.settings.training import Dpo, Training
from tasks.runtime import worker
from tasks.runtime.places import Processes, StageCrash
from tasks.runtime.training_processes import RankError

pytestmark = pytest.mark.long  # each process imports torch and TRL
WORDS = ["red", "green", "blue", "the", "a", "sea", "wind", "poem", "number", "sum", "even", "odd", "pear", "plum"]
TRAINING = {
    "learning_rate": 1e-2,
    "batch_size": 8,
    "per_device_batch_size": 2,
    "weight_decay": 0.1,
    "epochs": 2,
    "warm_up_share": 0.5,
    "decay_share": 0.5,
}
LONG = 60  # epochs of a training that is still under way when harm is done to it


def text(rng: random.Random, fewest: int, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(fewest, most)))


def rows() -> dict[str, list[dict[str, Any]]]:
    """27 points and 13 pairs: by eights the last step has three of the one, five of the other."""
    rng = random.Random(0)
    points = [{"id": f"{i:02}", "instruction": text(rng, 2, 8), "response": text(rng, 2, 12)} for i in range(27)]
    pairs = [
        {"prompt": user(text(rng, 5, 5)), "chosen": text(rng, 3, 12), "rejected": text(rng, 3, 12)} for _ in range(13)
    ]
    return {"pairs.parquet": points, "warm-up.parquet": points, "preferences.parquet": pairs}


INPUTS = {
    "student": ("pairs", "responses/x", "pairs.parquet"),
    "warm-up": ("split", "split/x", "warm-up.parquet"),
    "teacher": ("preferences", "preferences/x", "preferences.parquet"),
}


@pytest.fixture
def base(tmp_path: Path, tiny_llama: Callable[..., LlamaForCausalLM], tiny_tokenizer: PreTrainedTokenizerBase) -> Path:
    loading.save(tiny_llama(), tiny_tokenizer, tmp_path / "base")
    return tmp_path / "base"


def asked(store: Folder, name: str, base: Path, processes: int, lora: Lora | None = None, **changes: Any) -> Request:
    """The request for a training in `processes`; what it trains on is put into the store."""
    role, address, file = INPUTS[name]
    if not store.exists(address):
        with store.staging() as out:
            write_rows(out / file, rows()[file])
            store.commit(address, out, {"summary": {}})
    kind, block = (Dpo, "dpo") if name == "teacher" else (Training, "training")
    settings = {block: kind(**(TRAINING | changes)).model_dump(), "dtype": "float32", "max_length": 256}
    settings |= {"lora": lora.model_dump() if lora else None, "trust_remote_code": False}
    model = "teacher" if name == "teacher" else "student"
    inputs = {model: [sources.model(str(base), model)], role: [address]}
    means = {"training_processes": processes} if processes > 1 else {}
    return Request(stage=name, version=1, settings=settings, inputs=inputs, seed=3, means=means)


def made(folder: Path, name: str, base: Path, processes: int, **given: Any) -> Path:
    """The artifact of a training in `processes`."""
    store = Folder(folder)
    request = asked(store, name, base, processes, **given)
    worker.run(request, store)
    return store.open(request.address)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def alike(one: Path, several: Path) -> None:
    """Raise where two artifacts of the same training differ by more than the order of sums can make them."""
    assert files(several) == files(one)
    logs = [json.loads((folder / "log.json").read_text()) for folder in (one, several)]
    assert len(logs[0]) == len(logs[1]) > 2
    for row, other in zip(*logs, strict=True):
        assert other == pytest.approx(row, rel=1e-6, abs=5e-6)
        assert other["step"] == row["step"] and other["learning_rate"] == row["learning_rate"]
    for name in sorted(files(one)):
        if name.endswith(".safetensors"):
            tensors, others = load_file(one / name), load_file(several / name)
            assert tensors.keys() == others.keys()
            for key, tensor in tensors.items():
                assert others[key].dtype == tensor.dtype
                torch.testing.assert_close(others[key], tensor, rtol=1e-5, atol=1e-5 if "exp_avg" not in key else 1e-7)
        elif name not in ("manifest.json", "log.json"):
            assert (several / name).read_bytes() == (one / name).read_bytes(), name


@pytest.mark.parametrize("name", INPUTS)
def test_two_processes_report_and_leave_what_one_does(tmp_path: Path, base: Path, name: str) -> None:
    heard: dict[str, list[tuple[int, int, str, str]]] = {"one": [], "two": []}
    with progress.send_to(lambda *report: heard["one"].append(report)):
        one = made(tmp_path / "one", name, base, 1)
    with progress.send_to(lambda *report: heard["two"].append(report)):
        two = made(tmp_path / "two", name, base, 2)
    alike(one, two)
    assert [report[:3] for report in heard["two"]] == [report[:3] for report in heard["one"]]
    if name == "warm-up":
        state, other = OptimizerState.load(one), OptimizerState.load(two)
        assert (other.step, other.learning_rate, other.weight_decay) == (state.step, state.learning_rate, 0.1)
        other.check(dict(loading.load_model(two / "model").named_parameters()))


@pytest.mark.parametrize("name", ["warm-up", "teacher"])
def test_two_processes_train_the_adapters_that_one_trains(tmp_path: Path, base: Path, name: str) -> None:
    given = {"lora": Lora(rank=2), "gradient_checkpointing": True}
    alike(made(tmp_path / "one", name, base, 1, **given), made(tmp_path / "two", name, base, 2, **given))


def test_three_processes_train_tied_weights_as_one_does(
    tmp_path: Path, tiny_llama: Callable[..., LlamaForCausalLM], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    loading.save(tiny_llama(tie_word_embeddings=True), tiny_tokenizer, tmp_path / "tied")
    given = {"batch_size": 6, "per_device_batch_size": 1}
    one, three = (made(tmp_path / str(n), "teacher", tmp_path / "tied", n, **given) for n in (1, 3))
    alike(one, three)


@pytest.fixture
def ranks() -> Iterator[Callable[[], dict[int, psutil.Process]]]:
    """The processes of trainings under this one, by rank; none is left at the end of the test."""

    def found() -> dict[int, psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return {int(p.environ()["RANK"]): p for p in children if p.cmdline()[-1:] == ["tasks.runtime.rank"]}

    yield found
    assert not found()


def hurt(request: Request, store: Folder, harm: Callable[[], None]) -> RankError:
    """What a stage says to whom `harm` was done after its second step; nothing of it may be in the store.

    It is done again ten steps later: Python drops an interrupt that comes while an object is being disposed of.
    """
    with (
        progress.send_to(lambda done, *_: harm() if done % 10 == 2 else None),
        pytest.raises(RankError) as raised,
    ):
        worker.run(request, store)
    assert not store.exists(request.address)
    assert not list((store.root / ".staging").iterdir())
    return raised.value


@pytest.mark.parametrize(
    ("rank", "number", "says"),
    [
        (0, signal.SIGKILL, "process 1 of 2 was killed by signal 9"),
        (1, signal.SIGINT, "process 2 of 2: KeyboardInterrupt: no message"),  # an exception, raised in one alone
    ],
)
def test_a_process_that_fails_ends_the_stage_with_its_own_error_and_a_retry_succeeds(
    tmp_path: Path, base: Path, ranks: Callable[[], dict[int, psutil.Process]], rank: int, number: int, says: str
) -> None:
    store = Folder(tmp_path / "store")
    request = asked(store, "student", base, 2, epochs=LONG)
    error = hurt(request, store, lambda: ranks()[rank].send_signal(number))
    assert str(error) == says
    worker.run(request, store)
    assert "model/model.safetensors" in files(store.open(request.address))


def test_a_first_process_that_cannot_write_ends_the_stage_with_its_error(tmp_path: Path, base: Path) -> None:
    store = Folder(tmp_path / "store")
    request = asked(store, "student", base, 2)

    def spoil() -> None:
        for folder in (store.root / ".staging").iterdir():
            shutil.rmtree(folder)

    error = hurt(request, store, spoil)
    assert "process 1 of 2: FileNotFoundError: " in str(error)


def test_a_training_that_diverges_is_the_stages_own_verdict(
    tmp_path: Path, tiny_llama: Callable[..., LlamaForCausalLM], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    loading.save(model, tiny_tokenizer, tmp_path / "base")
    store = Folder(tmp_path / "store")
    with pytest.raises(StageError, match=r"loss is nan at step 1 of 8.*lower learning_rate"):
        worker.run(asked(store, "student", tmp_path / "base", 2), store)


def test_a_stage_that_is_killed_takes_its_processes_along_and_is_worth_a_retry(
    tmp_path: Path, base: Path, ranks: Callable[[], dict[int, psutil.Process]]
) -> None:
    store = Folder(tmp_path / "store")
    request = asked(store, "student", base, 2, epochs=LONG)
    place = Processes(Compute(training_processes=2, at_once=2), "none")
    killed: list[psutil.Process] = []

    def kill_the_stage(done: int, *_: Any) -> None:
        if done == 2 and not killed:
            killed.extend(ranks().values())
            os.kill(killed[0].ppid(), signal.SIGKILL)

    try:
        with pytest.raises(StageCrash, match="killed by signal 9"):
            place.run(request, store, kill_the_stage)
        assert len(killed) == 2
        assert psutil.wait_procs(killed, timeout=60)[1] == []
        place.run(request, store, lambda *_: None)
        assert store.exists(request.address)
    finally:
        place.close()
