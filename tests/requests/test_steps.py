"""What the settings of a run do to its requests."""

from pathlib import Path

from flows.requests.run import plan
from montessori.settings import files

TINY = Path(__file__).resolve().parents[2] / "montessori/configs/tiny.yaml"


def test_the_processes_of_a_training_change_no_artifacts_identity() -> None:
    halved = [f"{name}.per_device_batch_size=1" for name in ("warm_up", "dpo", "sft")]
    one, run = plan(files.load(TINY, halved))
    several, same = plan(files.load(TINY, [*halved, "compute.training_processes=2"]))
    assert (list(several.requests), same) == (list(one.requests), run)
    shared = {r.stage for r in several.requests.values() if r.means.get("training_processes") == 2}
    assert shared == {"warm-up", "teacher", "student"}
    assert not any(r.means.get("training_processes") for r in one.requests.values())
