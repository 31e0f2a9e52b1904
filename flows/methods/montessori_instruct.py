"""Montessori-Instruct, one line a step (docs/method.md, section 1), and what every system is made of.

Each name is the address of an artifact.
"""

from dataclasses import dataclass, field

from flows.requests.steps import Address, Against, Shards, Steps


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
    """A teacher after its update, and what was made on the way."""

    teacher: Address
    warm: Address | None  # the student whose preferences it learned, where it learned a student's
    against: Against
    inputs: dict[str, list[Address]]  # for the report


@dataclass(frozen=True)
class Iteration:
    """What one iteration of a method made on the way to its student."""

    number: int
    system: System
    teacher: Address | None = None  # where it was updated
    inputs: dict[str, list[Address]] = field(default_factory=dict)  # for the report


def base(steps: Steps) -> Base:
    """Seeds, reference set, held-out points, and the two models."""
    settings = steps.settings
    seeds = steps.rows("seeds", settings.seeds)
    endpoint = steps.endpoint()
    tunes = settings.iterations and settings.method != "llm2llm"
    weights = settings.teacher if tunes or not endpoint else None  # of no use when nothing is tuned
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


def no_fine_tuning(steps: Steps, base: Base, name: str = "No fine-tuning") -> System:
    """The base student as it is."""
    return System(name, base.student, steps.evaluate(base.student, base.reference, base.test, name))


def self_instruct(steps: Steps, base: Base) -> System:
    """A student taught by the unchanged teacher."""
    return taught_by(steps, base, base.writer, "Self-Instruct")


def taught_by(
    steps: Steps, base: Base, teacher: Address, name: str, purpose: str = "training", seeded: str = ""
) -> System:
    """A student fine-tuned on what `teacher` writes.

    `purpose` makes the randomness of the writing its own, `seeded` that of the fine-tuning.
    """
    size = steps.settings.training_size
    label = f"{name}, training set"
    instructions = steps.instructions(teacher, base.seeds, size, purpose, label)
    pairs = steps.responses(teacher, instructions, label)
    return taught_on(steps, base, pairs, name, instructions, seeded)


def taught_on(
    steps: Steps, base: Base, pairs: Shards, name: str, instructions: Address | None = None, seeded: str = ""
) -> System:
    """A student fine-tuned on a training set, and measured."""
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
    made = {"instructions": [instructions], "pairs": pairs}

    if steps.settings.preferences.signal == "rating":
        ratings = steps.ratings(writer, [split], "probing.parquet", name)
        tuned, more = learned(steps, teacher, instructions, ratings, name)
        return Tuned(tuned, None, {}, {**made, **more})

    warm = steps.warm_up(probed, split, name)
    against = steps.measured_against(warm, base.reference, name)
    if steps.settings.update == "responses":
        pairs, scores, tuned, more = answering(steps, teacher, writer, split, warm, against, name)
        made["pairs"] = pairs
    else:
        scores = steps.influence(warm, against, [split], "probing.parquet", name)
        tuned, more = learned(steps, teacher, instructions, scores, name)
    return Tuned(tuned, warm, against, {**made, "warm-up": [warm], "scores": scores, **more})


def learned(
    steps: Steps, teacher: Address, instructions: Address, scores: Shards, name: str
) -> tuple[Address, dict[str, list[Address]]]:
    """The teacher after learning which of its instructions are the better ones; and what that was made of."""
    if steps.settings.update == "bootstrap":
        tuned = steps.bootstrap(teacher, instructions, scores, name)
        return tuned, {"teacher": [tuned]}
    preferences = steps.preferences(instructions, scores, name)
    tuned = steps.update_teacher(teacher, preferences, name)
    return tuned, {"preferences": [preferences], "teacher": [tuned]}


def answering(
    steps: Steps, teacher: Address, writer: Address, split: Address, warm: Address, against: Against, name: str
) -> tuple[Shards, Shards, Address, dict[str, list[Address]]]:
    """The ablation "response optimisation": several answers to one instruction, and which of them are the better ones.

    As many points are scored as when instructions are compared.
    """
    limit = steps.settings.probing.probing // steps.settings.responses.samples
    samples = steps.samples(writer, split, name, limit, "probing.parquet")
    scores = steps.influence(warm, against, samples, "pairs.parquet", name)
    preferences = steps.preferred_responses(samples, scores, name)
    tuned = steps.update_teacher(teacher, preferences, name)
    return samples, scores, tuned, {"preferences": [preferences], "teacher": [tuned]}


def scored_after(steps: Steps, tuned: Tuned, system: System, name: str) -> dict[str, list[Address]]:
    """How the tuned teacher's points score, by the student that it was tuned to; where the settings ask for it."""
    if not steps.settings.influence.after or not tuned.warm:
        return {}
    label = f"{name}, after the update"
    return {"scores-after": steps.influence(tuned.warm, tuned.against, system.pairs, "pairs.parquet", label)}


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Each tunes the teacher of the one before to what a student learns most from, and trains a student on its data."""
    teacher, writer, student = base.teacher, base.writer, base.student
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        assert teacher, "the settings have a teacher wherever one is tuned"
        name = f"Montessori iteration {number}"
        probed = base.student if steps.settings.probing.student == "base" else student
        tuned = tune(steps, base, teacher, writer, probed, f"probing {number}", name)
        system = taught_by(steps, base, tuned.teacher, name)
        inputs = {**tuned.inputs, **scored_after(steps, tuned, system, name)}
        done.append(Iteration(number, system, tuned.teacher, inputs))
        teacher = writer = tuned.teacher
        student = system.student
    return done
