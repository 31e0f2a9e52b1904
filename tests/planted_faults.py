"""Plant one fault at a time in a copy of the repository and see which test catches it.

    python tests/planted_faults.py                    all faults, each against the tests that should see it first
    python tests/planted_faults.py adamw-sign …       these faults
    python tests/planted_faults.py --whole            run the rest of `make test` where the first tests pass

Prints a Markdown table. Exits with 1 if a fault survives, with 2 if the code to change is not there exactly once.
docs/results/planted-faults.md has the last table.
"""

# ruff: noqa: T201
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("montessori", "tasks", "flows", "tests", "infra", "docker", "docs", "pyproject.toml", "Makefile", "README.md")
TIMEOUT_S = 1800


class Fault(NamedTuple):
    """A change of one piece of code, and the tests that should see it first."""

    name: str
    file: str
    old: str  # stands in the file exactly once
    new: str
    tests: str  # files or folders below tests/, separated by spaces


FAULTS = [
    # Influence
    Fault(
        "adamw-sign",
        "montessori/influence/adamw.py",
        ".mul_(-self._scale)",
        ".mul_(self._scale)",
        "influence/test_adamw_state.py",
    ),
    Fault(
        "bias-correction-of-the-mean-at-t",
        "montessori/influence/adamw.py",
        "self.learning_rate / (1 - self.beta1 ** (self.step + 1))",
        "self.learning_rate / (1 - self.beta1 ** self.step)",
        "influence/test_adamw_state.py",
    ),
    Fault(
        "bias-correction-of-the-square-at-t",
        "montessori/influence/adamw.py",
        "math.sqrt((1 - self.beta2 ** (self.step + 1))",
        "math.sqrt((1 - self.beta2 ** self.step)",
        "influence/test_adamw_state.py",
    ),
    Fault(
        "weight-decay-sign",
        "montessori/influence/adamw.py",
        "delta.sub_(parameter,",
        "delta.add_(parameter,",
        "influence/test_adamw_state.py",
    ),
    Fault(
        "momentum-dropped",
        "montessori/influence/adamw.py",
        "torch.lerp(m, g, weight).div_(",
        "torch.mul(g, weight).div_(",
        "influence/test_adamw_state.py",
    ),
    Fault(
        "taylor-sign",
        "montessori/influence/taylor.py",
        "influence = math.fsum(",
        "influence = -math.fsum(",
        "influence/test_estimators.py",
    ),
    Fault(
        "taylor-forgets-rows-at-rest",
        "montessori/influence/taylor.py",
        ".append(rest.sum() - rest[rows].sum())",
        ".append(0 * rest.sum())",
        "influence/test_estimators.py",
    ),
    Fault(
        "exact-takes-bfloat16",
        "montessori/influence/exact.py",
        "wide = (torch.float32, torch.float64)",
        "wide = (torch.float32, torch.float64, torch.bfloat16)",
        "influence/test_estimators.py",
    ),
    Fault(
        "exact-leaves-the-step-in-the-weights",
        "montessori/influence/exact.py",
        "parameter.copy_(weights)",
        "weights.copy_(parameter)",
        "influence/test_estimators.py",
    ),
    Fault(
        "reference-loss-weighs-batches",
        "montessori/influence/reference.py",
        "mean = loss.sum() / len(examples)",
        "mean = loss.mean()",
        "influence/test_reference_loss.py",
    ),
    Fault(
        "influence-mask-off-by-one",
        "montessori/influence/batches.py",
        "return max(1, example.prompt_length)",
        "return max(1, example.prompt_length - 1)",
        "influence/test_reference_loss.py influence/test_estimators.py",
    ),
    Fault(
        "shard-index-ignored",
        "tasks/tokenize_points.py",
        ".to_numpy() % count == index)",
        ".to_numpy() % count == 0)",
        "tasks/test_tokenize_points.py",
    ),
    Fault(
        "dropped-points-doubled-by-shards",
        "tasks/tokenize_points.py",
        "dict(list(dropped.items())[index::count])",
        "dict(list(dropped.items()))",
        "tasks/test_tokenize_points.py",
    ),
    # Data
    Fault(
        "chat-mask-off-by-one",
        "montessori/data/chat.py",
        "return [0] * self.prompt_length + [1] * (len(self.input_ids) - self.prompt_length)",
        "return [0] * (self.prompt_length + 1) + [1] * (len(self.input_ids) - self.prompt_length - 1)",
        "data/test_chat.py",
    ),
    Fault(
        "a-prompt-without-an-answer-is-learned-from",
        "montessori/data/chat.py",
        "if prompt_length >= max_length:",
        "if prompt_length > max_length:",
        "data/test_chat.py",
    ),
    Fault(
        "dedup-at-the-threshold",
        "montessori/synthesis/dedup.py",
        "> self.max_rouge_l).any()",
        ">= self.max_rouge_l).any()",
        "synthesis/test_dedup.py",
    ),
    Fault(
        "training-set-one-short",
        "montessori/synthesis/instructions.py",
        "(missing := target - len(result.rows)) > 0",
        "(missing := target - len(result.rows)) > 1",
        "synthesis/test_instructions.py",
    ),
    Fault(
        "a-shard-lost-in-a-merge",
        "tasks/runtime/job.py",
        "for folder in self.folders(name) for row in",
        "for folder in self.folders(name)[-1:] for row in",
        "tasks/test_split_points.py",
    ),
    Fault(
        "seed-ignored-by-the-split",
        "tasks/split_points.py",
        "random.Random(job.seed)",
        "random.Random(0)",
        "tasks/test_split_points.py",
    ),
    Fault(
        "probing-points-in-the-warm-up-set",
        "tasks/split_points.py",
        "probing = pairs[settings.warm_up : settings.warm_up + settings.probing]",
        "probing = pairs[: settings.probing]",
        "tasks/test_split_points.py",
    ),
    Fault(
        "merged-training-set-keeps-what-the-student-knows",
        "tasks/merge_training_sets.py",
        'row["id"] not in wrong',
        'row["id"] in wrong',
        "tasks/test_merge_training_sets.py",
    ),
    # Training
    Fault(
        "fine-tuning-on-the-prompt",
        "montessori/training/sft.py",
        "token if counts else IGNORED for",
        "token for",
        "training/test_sft.py",
    ),
    Fault(
        "preferences-swapped",
        "montessori/preferences.py",
        '"chosen": chosen["raw"],\n        "rejected": rejected["raw"],',
        '"chosen": rejected["raw"],\n        "rejected": chosen["raw"],',
        "test_preferences.py",
    ),
    Fault(
        "positive-at-the-threshold",
        "montessori/preferences.py",
        '[row for row in rows if influences[row["id"]] > limit]',
        '[row for row in rows if influences[row["id"]] >= limit]',
        "test_preferences.py",
    ),
    Fault(
        "dpo-on-swapped-answers",
        "montessori/training/dpo.py",
        '"chosen_ids": [c.input_ids[n:] for (c, _), n in',
        '"chosen_ids": [c.input_ids[n:] for (_, c), n in',
        "training/test_dpo.py",
    ),
    Fault(
        "dpo-reference-not-frozen",
        "montessori/training/dpo.py",
        "copy.deepcopy(model).requires_grad_(False)",
        "model",
        "training/test_dpo.py",
    ),
    Fault(
        "student-from-the-warmed-up-copy",
        "flows/methods/montessori_instruct.py",
        "system = teach(steps, base, tuned.teacher, who)",
        'system = teach(steps, type(base)(**{**vars(base), "student": tuned.warm}), tuned.teacher, who)',
        "requests/test_montessori_instruct.py",
    ),
    Fault(
        "probing-and-training-share-their-seed",
        "flows/requests/steps.py",
        "    if not purpose:\n",
        "    if purpose:\n",
        "requests/test_montessori_instruct.py",
    ),
    # The store
    Fault(
        "manifest-before-its-files",
        "montessori/artifacts/folder.py",
        "            folder.rename(target)\n",
        "            target.mkdir()\n"
        "            (folder / MANIFEST).rename(target / MANIFEST)\n"
        "            [path.rename(target / path.name) for path in folder.iterdir()]\n",
        "artifacts/test_store.py artifacts/test_folder.py",
    ),
    Fault(
        "hash-not-checked",
        "montessori/artifacts/store.py",
        ' or sha256(path) != file["sha256"]',
        "",
        "artifacts/test_store.py",
    ),
    Fault(
        "fingerprint-without-the-seed",
        "montessori/artifacts/request.py",
        '"seed": self.seed,',
        '"seed": 0,',
        "artifacts/test_requests.py",
    ),
    Fault(
        "fingerprint-without-the-values-of-settings",
        "montessori/artifacts/request.py",
        '"settings": self.settings,',
        '"settings": sorted(self.settings),',
        "artifacts/test_requests.py",
    ),
    Fault(
        "journal-loses-the-last-answer",
        "montessori/artifacts/journal.py",
        "for line in text[:whole].splitlines())",
        "for line in text[:whole].splitlines()[:-1])",
        "artifacts/test_store.py synthesis/test_journaled_engine.py",
    ),
    Fault(
        "journaled-answers-asked-for-again",
        "montessori/synthesis/journaled_engine.py",
        "done = {i for i, key in enumerate(keys) if key in self._answers}",
        "done: set[int] = set()",
        "synthesis/test_journaled_engine.py",
    ),
    Fault(
        "gc-removes-a-champion",
        "tasks/runtime/retention.py",
        "return {*runs, *teachers(store), *in_use(store, grace_s)}",
        "return {*runs, *in_use(store, grace_s)}",
        "artifacts/test_gc.py",
    ),
    Fault(
        "gc-forgets-parents",
        "montessori/artifacts/gc.py",
        "todo += parents(entry.manifest, uri)",
        "todo += parents(entry.manifest, uri)[:1]",
        "artifacts/test_gc.py",
    ),
    Fault(
        "promotion-over-a-later-champion",
        "montessori/refresh/champions.py",
        "if entries and entries[-1].number != after:",
        "if entries and entries[-1].number < after:",
        "refresh/test_champions.py",
    ),
    # The run
    Fault(
        "retry-on-wrong-input",
        "tasks/runtime/retry.py",
        "not isinstance(error, MontessoriError) or isinstance(error, StageCrash | StoreUnreachable)",
        "isinstance(error, Exception)",
        "tasks/runtime/test_prefect_executor.py tasks/runtime/test_local.py",
    ),
    Fault(
        "no-retry-after-a-crash",
        "tasks/runtime/retry.py",
        "not isinstance(error, MontessoriError) or isinstance(error, StageCrash | StoreUnreachable)",
        "not isinstance(error, MontessoriError)",
        "tasks/runtime/test_prefect_executor.py tasks/runtime/test_local.py",
    ),
    Fault(
        "price-of-prompts-alone",
        "montessori/budget.py",
        "(read * price.input + written * price.output) / 1e6",
        "read * price.input / 1e6",
        "test_budget_rules.py synthesis/test_journaled_engine.py",
    ),
    Fault(
        "secret-in-a-log",
        "montessori/synthesis/engines/openai.py",
        "        self._window = Window(endpoint.max_concurrency)\n",
        "        self._window = Window(endpoint.max_concurrency)\n"
        '        log.warning("the endpoint takes %s", link._key(endpoint))\n',
        "synthesis/test_openai_engine.py",
    ),
    # Evaluation and reports
    Fault(
        "standard-error-by-n",
        "montessori/evaluation/metrics.py",
        "statistics.stdev(values)",
        "statistics.pstdev(values)",
        "evaluation/test_metrics.py",
    ),
    Fault(
        "paired-test-by-n",
        "montessori/evaluation/paired.py",
        "statistics.variance(means)",
        "statistics.pvariance(means)",
        "evaluation/test_paired.py",
    ),
    Fault(
        "win-rate-joined-by-position",
        "montessori/evaluation/length_control.py",
        '[[row["index"] for row in rows]]',
        "[: len(rows)]",
        "evaluation/test_alpaca.py",
    ),
    Fault(
        "duel-decided-by-one-order",
        "montessori/evaluation/verdicts.py",
        "if all(preference < 0.5 for preference in readable):",
        "if any(preference < 0.5 for preference in readable):",
        "evaluation/test_verdicts.py",
    ),
    Fault(
        "html-not-escaped",
        "montessori/reporting/html.py",
        "autoescape=True",
        "autoescape=False",
        "reporting/test_escaping.py",
    ),
    # Real models, rows, states and endpoints
    Fault(
        "the-last-prompt-token-is-learned",
        "montessori/data/chat.py",
        "if end > start), len(ids)))",
        "if end >= start), len(ids)))",
        "data/test_chat_templates.py",
    ),
    Fault(
        "the-space-before-an-answer-is-in-its-prompt",
        "montessori/data/template.py",
        'return Place(before.rstrip(" "), after, reasoning)',
        "return Place(before, after, reasoning)",
        "data/test_chat_templates.py",
    ),
    Fault(
        "the-end-mark-of-a-template-is-ignored",
        "montessori/data/chat.py",
        "return Endings(frozenset({*own, *first}), ())",
        "return Endings(frozenset(own), ())",
        "data/test_chat_templates.py",
    ),
    Fault(
        "the-clock-of-a-template-runs",
        "montessori/data/template.py",
        "json.dumps(date.strftime(call[2]))",
        "json.dumps(datetime.date.today().strftime(call[2]))",
        "data/test_chat_templates.py",
    ),
    Fault(
        "a-dropped-turn-is-accepted",
        "montessori/data/template.py",
        "if part.strip() not in text:",
        "if part.strip() not in text + part:",
        "data/test_chat_templates.py",
    ),
    Fault(
        "the-history-of-a-row-is-dropped",
        "montessori/data/forms.py",
        'return [*_history(reader), {"role": "user"',
        'return [{"role": "user"',
        "data/test_forms.py",
    ),
    Fault(
        "a-finished-schedule-is-accepted",
        "montessori/models/state_folder.py",
        "math.isfinite(learning_rate) and learning_rate > 0",
        "math.isfinite(learning_rate) and learning_rate >= 0",
        "commands/test_score_optimizers.py",
    ),
    Fault(
        "adam-with-l2-is-taken-for-adamw",
        "montessori/influence/optimizers.py",
        'if any(group.get("weight_decay") and group.get("decoupled_weight_decay") is False for group in groups):',
        "if False:",
        "influence/test_optimizers.py",
    ),
    Fault(
        "a-model-with-a-state-is-padded",
        "montessori/models/families.py",
        'return "equal lengths" if kind in PADDED | EQUAL_LENGTHS else "alone"',
        'return "padded" if kind in PADDED | EQUAL_LENGTHS else "alone"',
        "models/test_families.py",
    ),
    Fault(
        "a-thought-stays-in-an-answer",
        "montessori/synthesis/thinking.py",
        "return replace(generation, text=whole, finish_reason=finish, first=None)",
        "return generation",
        "synthesis/test_thinking.py",
    ),
]


class Verdict(NamedTuple):
    """What became of a fault."""

    fault: Fault
    caught_by: str  # the first test that failed; empty if none did
    seconds: float
    output: str


def main() -> int:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to plant (default: all)")
    parser.add_argument("--whole", action="store_true", help="run all of `make test` where the first tests pass")
    parser.add_argument("--at-once", type=int, default=1, help="faults planted side by side, each in a copy")
    options = parser.parse_args()
    known = {fault.name: fault for fault in FAULTS}
    assert len(known) == len(FAULTS), "two faults share a name"
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such fault: {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = [known[name] for name in options.names] or FAULTS
    misplaced = [fault for fault in chosen if (ROOT / fault.file).read_text().count(fault.old) != 1]
    for fault in misplaced:
        print(f"{fault.name}: {fault.file} does not have this exactly once: {fault.old!r}", file=sys.stderr)
    if misplaced:
        return 2
    print("| fault | where | caught by | seconds |\n| --- | --- | --- | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.at_once) as pool:
        planted = [pool.submit(_plant, fault, Path(folder) / fault.name, options.whole) for fault in chosen]
        verdicts = []
        for each in planted:
            verdict = each.result()
            verdicts.append(verdict)
            caught = f"`{verdict.caught_by}`" if verdict.caught_by else "**nothing**"
            print(f"| {verdict.fault.name} | `{verdict.fault.file}` | {caught} | {verdict.seconds:.0f} |", flush=True)
    survivors = [verdict for verdict in verdicts if not verdict.caught_by]
    print(f"\n{len(verdicts) - len(survivors)} of {len(verdicts)} faults caught")
    for verdict in survivors:
        print(f"\n{verdict.fault.name} survives:\n{verdict.output[-2000:]}", file=sys.stderr)
    return 1 if survivors else 0


def _plant(fault: Fault, copy: Path, whole: bool) -> Verdict:
    """Copy the repository, change it, and run the tests there until one fails."""
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
        elif source.exists():
            shutil.copy(source, copy / name)
    file = copy / fault.file
    text = file.read_text()
    assert text.count(fault.old) == 1, f"{fault.name}: {fault.file} has changed since this script was started"
    file.write_text(text.replace(fault.old, fault.new))
    started = time.monotonic()
    output = _tested(copy, [f"tests/{name}" for name in fault.tests.split()])
    caught_by = _failed(output)
    if not caught_by and whole:
        output = _tested(copy, ["--numprocesses=2", "--dist=loadgroup"])
        caught_by = _failed(output)
    shutil.rmtree(copy, ignore_errors=True)
    return Verdict(fault, caught_by, time.monotonic() - started, output)


def _tested(copy: Path, arguments: list[str]) -> str:
    """What pytest says of the copy, up to the first failure. Raises RuntimeError where it could not run the tests."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not long", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    ended = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if ended.returncode not in (0, 1, 2):  # 2: an import of a test fails
        raise RuntimeError(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
    return ended.stdout


def _failed(output: str) -> str:
    """The first test that failed, or the empty string."""
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", output, re.MULTILINE)
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
