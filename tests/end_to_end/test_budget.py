"""A run that may cost only so much: it stops cleanly, keeps what was made, and goes on when it may cost more."""

from pathlib import Path

from harness import CONFIG, Montessori, contents

from montessori.artifacts import Folder


def used(store: Path) -> float:
    """Tokens of the teacher, in artifacts and in journals."""
    addresses = {f"{path.parent.parent.name}/{path.parent.name}" for path in store.glob("*/*/manifest.json")}
    addresses |= {folder.name.replace("+", "/") for folder in (store / ".journals").glob("*")}
    found = [Folder(store).usage(address) for address in addresses]
    return sum(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0) for usage in found)


def test_a_budget_stops_a_run_and_a_larger_one_lets_it_go_on(only_models: Path, finished: Path, here: Montessori):
    whole = used(finished)
    limit = round(whole / 2)
    stopped = here("run", CONFIG, "--store", only_models, "--set", f"budget.tokens={limit}")
    assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    assert f"montessori: budget.tokens = {limit:,} " in stopped.stderr  # reached, or too little for what comes next
    assert "raise budget.tokens and run the same command to go on" in stopped.stderr
    assert "attempts" not in stopped.stderr  # it is no failure, and was not tried again
    spent = used(only_models)
    assert 0 < spent < limit + 0.3 * whole  # batches that were under way are finished

    again = here("run", CONFIG, "--store", only_models, "--set", f"budget.tokens={limit}")
    assert again.returncode == 1
    assert used(only_models) == spent

    raised = here("run", CONFIG, "--store", only_models, "--set", f"budget.tokens={round(whole) + 1}")
    assert raised.returncode == 0, raised.stdout + raised.stderr
    assert used(only_models) == whole
    assert contents(only_models) == contents(finished)


def test_a_budget_of_hours_counts_all_stages(copy: Path, here: Montessori):
    stopped = here("run", CONFIG, "--store", copy, "--set", "budget.hours=0.000001", "--set", "dpo.beta=0.3")
    assert stopped.returncode == 1
    assert "budget.hours = 1e-06 is reached" in stopped.stderr
