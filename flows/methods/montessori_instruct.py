"""Montessori-Instruct, one line a step (docs/explanation/method.md, One iteration), and what every system is made of.

Each name is the address of an artifact.
"""

from dataclasses import dataclass, field

from flows.requests.builder import Address, Shards, Who
from flows.requests.steps import Against, Steps

UNTRAINED, UNCHANGED = Who("No fine-tuning"), Who("Self-Instruct")  # the systems beside the method


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

    who: Who
    student: Address
    metrics: Address
    instructions: Address | None = None
    pairs: Shards = field(default_factory=list)

    @property
    def name(self) -> str:
        """The display text, and the prefix of the report's inputs."""
        return self.who.name


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


def no_fine_tuning(steps: Steps, base: Base, who: Who = UNTRAINED) -> System:
    """The base student as it is."""
    return System(who, base.student, steps.evaluate(base.student, base.reference, base.test, who))


def self_instruct(steps: Steps, base: Base) -> System:
    """A student taught by the unchanged teacher."""
    return taught_by(steps, base, base.writer, UNCHANGED)


def taught_by(
    steps: Steps, base: Base, teacher: Address, who: Who, purpose: str = "training", seeded: str = ""
) -> System:
    """A student fine-tuned on what `teacher` writes.

    `purpose` makes the randomness of the writing its own, `seeded` that of the fine-tuning.
    """
    size = steps.settings.training_size
    part = who.within("training set")
    instructions = steps.instructions(teacher, base.seeds, size, purpose, part)
    pairs = steps.responses(teacher, instructions, part)
    return taught_on(steps, base, pairs, who, instructions, seeded)


def taught_on(
    steps: Steps, base: Base, pairs: Shards, who: Who, instructions: Address | None = None, seeded: str = ""
) -> System:
    """A student fine-tuned on a training set, and measured."""
    student = steps.train_student(base.student, pairs, who, seeded)
    metrics = steps.evaluate(student, base.reference, base.test, who)
    return System(who, student, metrics, instructions, pairs)


def tune(
    steps: Steps, base: Base, teacher: Address, writer: Address, probed: Address, *, purpose: str, who: Who
) -> Tuned:
    """Tune `teacher` to what the student `probed` learns most from.

    `writer` writes the points that are probed: the teacher itself, or what an endpoint has of it.
    """
    size = steps.settings.probing.warm_up + steps.settings.probing.probing

    instructions = steps.instructions(writer, base.seeds, size, purpose, who)
    pairs = steps.responses(writer, instructions, who)
    split = steps.split(pairs, who)
    made = {"instructions": [instructions], "pairs": pairs}

    if steps.settings.preferences.signal == "rating":
        ratings = steps.ratings(writer, [split], "probing.parquet", who)
        tuned, more = learned(steps, teacher, instructions, ratings, who)
        return Tuned(tuned, None, {}, {**made, **more})

    warm = steps.warm_up(probed, split, who)
    against = steps.measured_against(warm, base.reference, who)
    if steps.settings.update == "responses":
        pairs, scores, tuned, more = answering(steps, teacher, writer, split, warm, against, who)
        made["pairs"] = pairs
    else:
        scores = steps.influence(warm, against, [split], "probing.parquet", who)
        tuned, more = learned(steps, teacher, instructions, scores, who)
    return Tuned(tuned, warm, against, {**made, "warm-up": [warm], "scores": scores, **more})


def learned(
    steps: Steps, teacher: Address, instructions: Address, scores: Shards, who: Who
) -> tuple[Address, dict[str, list[Address]]]:
    """The teacher after learning which of its instructions are the better ones; and what that was made of."""
    if steps.settings.update == "bootstrap":
        tuned = steps.bootstrap(teacher, instructions, scores, who)
        return tuned, {"teacher": [tuned]}
    preferences = steps.preferences(instructions, scores, who)
    tuned = steps.update_teacher(teacher, preferences, who)
    return tuned, {"preferences": [preferences], "teacher": [tuned]}


def answering(
    steps: Steps, teacher: Address, writer: Address, split: Address, warm: Address, against: Against, who: Who
) -> tuple[Shards, Shards, Address, dict[str, list[Address]]]:
    """The ablation "response optimisation": several answers to one instruction, and which of them are the better ones.

    As many points are scored as when instructions are compared.
    """
    limit = steps.settings.probing.probing // steps.settings.responses.samples
    samples = steps.samples(writer, split, who, limit, "probing.parquet")
    scores = steps.influence(warm, against, samples, "pairs.parquet", who)
    preferences = steps.preferred_responses(samples, scores, who)
    tuned = steps.update_teacher(teacher, preferences, who)
    return samples, scores, tuned, {"preferences": [preferences], "teacher": [tuned]}


def scored_after(steps: Steps, tuned: Tuned, system: System, who: Who) -> dict[str, list[Address]]:
    """How the tuned teacher's points score, by the student that it was tuned to; where the settings ask for it."""
    if not steps.settings.influence.after or not tuned.warm:
        return {}
    part = who.within("after the update")
    return {"scores-after": steps.influence(tuned.warm, tuned.against, system.pairs, "pairs.parquet", part)}


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Each tunes the teacher of the one before to what a student learns most from, and trains a student on its data."""
    teacher, writer, student = base.teacher, base.writer, base.student
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        assert teacher, "the settings have a teacher wherever one is tuned"
        who = Who("Montessori", number)
        probed = base.student if steps.settings.probing.student == "base" else student
        tuned = tune(steps, base, teacher, writer, probed, purpose=f"probing {number}", who=who)
        system = taught_by(steps, base, tuned.teacher, who)
        inputs = {**tuned.inputs, **scored_after(steps, tuned, system, who)}
        done.append(Iteration(number, system, tuned.teacher, inputs))
        teacher = writer = tuned.teacher
        student = system.student
    return done


def inputs_of(systems: list[System]) -> dict[str, list[Address]]:
    """Return each system's artifacts as the inputs of a report."""
    inputs: dict[str, list[Address]] = {}
    for system in systems:
        inputs[f"{system.name}:metrics"] = [system.metrics]
        inputs[f"{system.name}:student"] = [system.student]
        inputs[f"{system.name}:instructions"] = [system.instructions] if system.instructions else []
        inputs[f"{system.name}:pairs"] = list(system.pairs)
    return inputs
