"""The method, one line a step (docs/method.md, section 1). Each name is the address of an artifact."""

from dataclasses import dataclass, field

from tasks.steps import Address, Against, Shards, Steps


@dataclass(frozen=True)
class Base:
    """What every system starts from."""

    seeds: Address
    reference: Address
    test: Address | None
    teacher: Address | None  # its weights, where there are any
    writer: Address  # the teacher, or the model behind an endpoint that writes for it until it is tuned
    student: Address


@dataclass(frozen=True)
class System:
    """A student, what it learned from, and how it did."""

    name: str
    student: Address
    metrics: Address
    instructions: Address | None = None
    pairs: Shards = field(default_factory=list)


@dataclass(frozen=True)
class Tuned:
    """A teacher after DPO, and what was made on the way."""

    teacher: Address
    warm: Address
    against: Against
    inputs: dict[str, list[Address]]  # for the report


@dataclass(frozen=True)
class Iteration:
    """What one iteration of Montessori-Instruct made on the way to its student."""

    number: int
    teacher: Address
    system: System
    inputs: dict[str, list[Address]]  # for the report


def base(steps: Steps) -> Base:
    """Seeds, reference set, held-out points, and the two models."""
    settings = steps.settings
    seeds = steps.rows("seeds", settings.seeds)
    endpoint = steps.endpoint()
    weights = settings.teacher if settings.iterations or not endpoint else None  # of no use when nothing is tuned
    teacher = steps.base_model("teacher", weights, seeds) if weights else None
    writer = endpoint or teacher
    assert writer, "the settings name a teacher or an endpoint"
    return Base(
        seeds=seeds,
        reference=steps.rows("reference", settings.reference),
        test=steps.rows("test", settings.test) if settings.test else None,
        teacher=teacher,
        writer=writer,
        student=steps.base_model("student", settings.student, seeds),
    )


def no_fine_tuning(steps: Steps, base: Base) -> System:
    """The base student as it is."""
    name = "No fine-tuning"
    return System(name, base.student, steps.evaluate(base.student, base.reference, base.test, name))


def taught_by(
    steps: Steps, base: Base, teacher: Address, name: str, purpose: str = "training", seeded: str = ""
) -> System:
    """A student fine-tuned on what `teacher` writes. With the unchanged teacher this is Self-Instruct.

    `purpose` makes the randomness of the writing its own, `seeded` that of the fine-tuning.
    """
    size = steps.settings.training_size
    label = f"{name}, training set"
    instructions = steps.instructions(teacher, base.seeds, size, purpose, label)
    pairs = steps.responses(teacher, instructions, label)
    student = steps.train_student(base.student, pairs, name, seeded)
    metrics = steps.evaluate(student, base.reference, base.test, name)
    return System(name, student, metrics, instructions, pairs)


def tune(
    steps: Steps, base: Base, teacher: Address, writer: Address, probed: Address, purpose: str, name: str
) -> Tuned:
    """Tune `teacher` to what the student `probed` learns most from.

    `writer` writes the points that are probed: the teacher itself, or what an endpoint has of it.
    """
    size = steps.settings.probing.warm_up + steps.settings.probing.probing

    instructions = steps.instructions(writer, base.seeds, size, purpose, name)
    pairs = steps.responses(writer, instructions, name)
    split = steps.split(pairs, name)
    warm = steps.warm_up(probed, split, name)
    against = steps.measured_against(warm, base.reference, name)
    scores = steps.influence(warm, against, [split], "probing.parquet", name)
    preferences = steps.preferences(instructions, scores, name)
    tuned = steps.update_teacher(teacher, preferences, name)

    made = {
        "instructions": [instructions],
        "pairs": pairs,
        "warm-up": [warm],
        "scores": scores,
        "preferences": [preferences],
        "teacher": [tuned],
    }
    return Tuned(tuned, warm, against, made)


def scored_after(steps: Steps, tuned: Tuned, system: System, name: str) -> dict[str, list[Address]]:
    """How the tuned teacher's points score, by the student that it was tuned to; where the settings ask for it."""
    if not steps.settings.influence.after:
        return {}
    label = f"{name}, after the update"
    return {"scores-after": steps.influence(tuned.warm, tuned.against, system.pairs, "pairs.parquet", label)}


def iteration(steps: Steps, base: Base, teacher: Address, writer: Address, probed: Address, number: int) -> Iteration:
    """Tune `teacher` to what the student `probed` learns most from, and train a student on what it then writes."""
    name = f"Montessori iteration {number}"
    tuned = tune(steps, base, teacher, writer, probed, f"probing {number}", name)
    system = taught_by(steps, base, tuned.teacher, name)
    return Iteration(number, tuned.teacher, system, {**tuned.inputs, **scored_after(steps, tuned, system, name)})
