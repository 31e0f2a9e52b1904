"""The card (`README.md`) of a data set or model on the hub: its content, its making, and the settings to replay it.

In: manifests of artifacts.  Out: Markdown under a YAML header, the same for the same artifacts. Whatever of a manifest
could name a machine goes through `reporting.public`; who made it and where is not told at all.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from montessori.reporting import public
from montessori.reporting.public import code, in_words
from montessori.reporting.text import count
from montessori.settings import files as config_file

Manifest = dict[str, Any]
Facts = list[tuple[str, str]]

UNTUNED = (
    "Self-Instruct: the teacher, as it is, is shown seeds and earlier instructions, writes new ones and answers them."
)
TUNED = (
    "[Montessori-Instruct](https://arxiv.org/abs/2410.14208): the teacher is shown seeds and earlier instructions, "
    "writes new ones and answers them. Each point is scored by its local data influence: how much one optimiser step "
    "on it lowers the student's loss on a reference set. DPO tunes the teacher towards outputs that score higher; the "
    "tuned teacher writes the training set."
)
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")  # as the hub calls them


@dataclass(frozen=True)
class Story:
    """What every card of a run tells. `instructions` and `responses` are of the texts that it is about."""

    repo: str
    system: str
    license: str | None
    run: Manifest
    result: str  # result.md
    sources: dict[str, str]  # by the setting that names it: what the run read, as addresses
    instructions: Manifest
    responses: list[Manifest]
    tuned: list[tuple[Manifest, str]]  # the teachers that DPO made, the first one first, each with who wrote its pairs


def of_data(story: Story, rows: int, columns: Mapping[str, str]) -> str:
    """Write the card of a training set of `rows`; `columns` are names with their meanings."""
    header = {
        "pretty_name": story.repo.partition("/")[2],
        "task_categories": ["text-generation"],
        "size_categories": [size(rows)],
        "tags": ["synthetic", "montessori", "instruction-tuning"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}],
    }
    use = f'from datasets import load_dataset\n\nrows = load_dataset("{story.repo}", split="train")'
    what = (
        f"{count(rows, 'instruction')}, each with a response: the training set of the system *{story.system}*. "
        "A language model wrote all of them; nobody has checked them. The column `prompt` quotes rows of the seeds, "
        "for which their own licence holds."
    )
    table = _table(("column", "what"), [(code(c), w) for c, w in columns.items()])
    return _card(story, header, what=what, use=use, chapters=[("Columns", table)])


def size(rows: int) -> str:
    """Return the hub's category for a data set of that many rows."""
    return SIZES[min(max(len(str(rows)) - 3, 0), len(SIZES) - 1)]


def of_model(story: Story, what: str, model: Manifest) -> str:
    """Write the card of the tuned teacher or the trained student whose manifest is `model`."""
    base = story.sources[what]
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base.startswith("hub:"):
        header["base_model"] = base.removeprefix("hub:").partition("@")[0]
    header["tags"] = ["montessori", "synthetic-data", "dpo" if what == "teacher" else "sft"]
    use = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{story.repo}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{story.repo}")'
    )
    said = {
        "teacher": f"The teacher of *{story.system}*: a language model, tuned by DPO to write training data from which "
        "a student learns more.",
        "student": f"The student of *{story.system}*: a language model, fine-tuned on what a teacher wrote.",
    }[what]
    asked, done = model["request"]["settings"], model["summary"]
    (start,) = model["request"]["inputs"][what]
    examples = done.get("trained", done.get("encoded", 0))
    facts = [
        ("model", code(model["address"])),
        ("trained from", in_words(start)),
        (
            "trained on",
            f"{count(examples, 'pair' if what == 'teacher' else 'point')}, cut at {asked['max_length']} tokens",
        ),
        ("training", _values(asked["dpo" if what == "teacher" else "training"])),
        ("adapters", _values(asked["lora"]) + ", merged" if asked["lora"] else "none: all weights"),
        ("weights", asked["dtype"]),
        ("versions", _versions(model)),
    ]
    return _card(story, header, what=said, use=use, chapters=[("Training", _table(("", ""), facts))])


def _card(story: Story, header: dict[str, Any], *, what: str, use: str, chapters: list[tuple[str, str]]) -> str:
    run = story.run
    made = f"Made by the run {code(run['address'].partition('/')[2])} of Montessori on {run['made_by']['time'][:10]}."
    terms = "" if story.license else "No licence is given here: those of the teacher and of the seeds decide."
    parts = [
        f"# {story.repo.partition('/')[2]}",
        what,
        " ".join(part for part in (made, terms) if part),
        _fenced(use, "python"),
        *(part for title, text in chapters for part in (f"## {title}", text)),
        "## How the texts were made",
        TUNED if story.tuned else UNTUNED,
        _table(("", ""), _writing(story)),
        "## What students learned",
        story.result.partition("\n")[2].strip(),
        "## Replay",
        _replay(story),
    ]
    given = {"license": story.license} if story.license else {}
    return f"---\n{config_file.dump(given | header)}---\n\n" + "\n\n".join(parts) + "\n"


def _writing(story: Story) -> Facts:
    """Say who wrote the texts, how, and how many were kept."""
    asked, done = story.instructions["request"]["settings"], story.instructions["summary"]
    (writer,) = story.instructions["request"]["inputs"]["teacher"]
    settings, rounds = asked["instructions"], done["rounds"]
    prompts, texts, kept = (sum(each[name] for each in rounds) for name in ("prompts", "texts", "kept"))
    shown = f"{count(settings['seed_shots'], 'seed')} and {count(settings['generated_shots'], 'earlier instruction')}"
    counted = ("empty", "cut_at_max_tokens", "filtered", "failed", "thinking_removed")
    empty, cut, filtered, failed, thoughts = (_total(story.responses, name) for name in counted)
    rejected = Counter(done["rejected"]).most_common()
    return [
        ("teacher", in_words(writer)),
        *_tuning(story),
        ("engine", asked["engine"] + (f", weights in {asked['dtype']}" if asked["engine"] != "openai" else "")),
        ("sampling of instructions", _values(settings["sampling"])),
        ("sampling of responses", _values(story.responses[0]["request"]["settings"]["sampling"])),
        (
            "prompt",
            f"version {code(asked['prompt'])}: {shown}; {count(settings['samples_per_prompt'], 'sample')} of each",
        ),
        ("seeds", in_words(story.sources["seeds"])),
        ("filters", _filters(settings)),
        ("rounds", f"{len(rounds)}: {prompts:,} prompts, {texts:,} texts, {kept:,} kept"),
        ("rejected", ", ".join(f"{number:,} {reason}" for reason, number in rejected) or "none"),
        ("responses", f"{empty:,} empty, {cut:,} cut at max_tokens"),
        *([("content filter", f"refused or cut {filtered:,} responses")] if filtered else []),
        *([("prompts without a response", f"{failed:,}, left out")] if failed else []),
        *([("thoughts", f"removed from {thoughts:,} responses")] if thoughts else []),
        ("tokens", _spent([story.instructions, *story.responses])),
        ("random seed", str(story.run["request"]["settings"]["run"]["seed"])),
        ("versions", _versions(story.instructions)),
    ]


def _tuning(story: Story) -> Facts:
    """Say how DPO made the teacher; nothing where it did not."""
    if not story.tuned:
        return []
    run = story.run["request"]["settings"]["run"]
    facts = [("base teacher", in_words(story.sources["teacher"]))]
    for teacher, wrote in story.tuned:
        dpo, pairs = teacher["request"]["settings"]["dpo"], count(teacher["summary"]["trained"], "pair")
        how = f"β {dpo['beta']}, learning rate {dpo['learning_rate']}"
        said = f"on {pairs} of what {code(public.address(wrote))} wrote; {how}"
        facts.append((f"DPO into {code(teacher['address'])}", said))
    signal = f"{run['influence']['estimator']}; pairs split by {run['preferences']['split']}"
    return [*facts, ("influence", signal), ("reference set", in_words(story.sources["reference"]))]


def _filters(settings: dict[str, Any]) -> str:
    words = ", ".join(settings["forbidden_words"])
    return (
        f"{settings['min_characters']} to {settings['max_characters']} characters, begins with an ASCII letter or "
        f"digit, ROUGE-L F1 with any other and with its prompt's seeds at most {settings['max_rouge_l']}"
        + (f", none of the words {code(words)}" if words else "")
    )


def _spent(manifests: list[Manifest]) -> str:
    used = [manifest["summary"].get("usage", {}) for manifest in manifests]
    read, wrote, paid = (sum(u.get(key, 0) for u in used) for key in ("prompt_tokens", "completion_tokens", "usd"))
    return f"{read:,} read, {wrote:,} written by the teacher" + (f", {paid:.2f} US dollars" if paid else "")


def _replay(story: Story) -> str:
    files = [f"`{role}`: {in_words(address)}" for role, address in story.sources.items() if address.startswith("file:")]
    command = "montessori run run.yaml"
    notes = [f"With the settings below as `run.yaml`, `{command}` makes it again."]
    if files:
        notes.append(f"Read from files, to be put beside it: {'; '.join(files)}.")
    settings = public.settings(story.run["request"]["settings"]["run"])
    text = config_file.dump(settings)
    if public.NOT_TOLD in text:
        notes.append("The endpoint's URL is not told.")
    folded = f"<details><summary>run.yaml</summary>\n\n{_fenced(text, 'yaml')}\n\n</details>"
    return f"{' '.join(notes)}\n\n{folded}"


def _values(tree: dict[str, Any]) -> str:
    """Write settings on one line."""
    told = ((key, code(", ".join(map(repr, v))) if isinstance(v, list) else v) for key, v in tree.items() if v != [])
    return ", ".join(f"{key} {value}" for key, value in told)


def _versions(made: Manifest) -> str:
    return ", ".join(f"{name} {version}" for name, version in made["versions"].items())


def _total(manifests: list[Manifest], key: str) -> int:
    return sum(manifest["summary"].get(key, 0) for manifest in manifests)


def _table(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |" for left, right in (header, ("---", "---"), *rows)]
    return "\n".join(lines)


def _fenced(text: str, language: str) -> str:
    marks = public.fence(text, 3)
    return f"{marks}{language}\n{text.strip()}\n{marks}"
