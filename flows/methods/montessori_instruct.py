"""Request the iterations of Montessori-Instruct, and the parts that all systems share.

Every variable holds the address of an artifact. docs/explanation/method.md explains the steps (One iteration).
"""

from dataclasses import dataclass, field

from flows.requests.builder import Address, Shards, Who
from flows.requests.steps import ReferenceInputs, Steps

UNTRAINED, UNCHANGED = Who("No fine-tuning"), Who("Self-Instruct")  # the systems beside the method


@dataclass(frozen=True)
class Base:
    """The artifacts that every system starts from."""

    seeds: Address
    reference: Address
    test: Address | None
    teacher: Address | None  # the weights, if they are needed
    writer: Address  # the model that generates: the teacher, or before any tuning an endpoint
    student: Address


@dataclass(frozen=True)
class System:
    """A student with its training set and its metrics."""

    who: Who
    student: Address
    metrics: Address
    instructions: Address | None = None
    pairs: Shards = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the display text, the prefix of the report's inputs."""
        return self.who.name


@dataclass(frozen=True)
class Tuned:
    """A teacher after its update, with the artifacts on the way."""

    teacher: Address
    warm: Address | None  # the warmed-up student whose preferences it learned
    reference: ReferenceInputs
    inputs: dict[str, list[Address]]  # for the report


@dataclass(frozen=True)
class Iteration:
    """The artifacts of one iteration of a method."""

    number: int
    system: System
    teacher: Address | None = None  # if it was updated
    inputs: dict[str, list[Address]] = field(default_factory=dict)  # for the report


def request_base(steps: Steps) -> Base:
    """Request the seeds, the reference set, the held-out points and the two models."""
    settings = steps.settings
    seeds = steps.rows("seeds", settings.seeds)
    endpoint = steps.endpoint()
    tunes = settings.iterations and settings.method != "llm2llm"
    weights = settings.teacher if tunes or not endpoint else None  # without tuning an endpoint needs no weights
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


def measure_untrained(steps: Steps, base: Base, who: Who = UNTRAINED) -> System:
    """Request the metrics of the base student."""
    return System(who, base.student, steps.evaluate(base.student, base.reference, base.test, who))


def self_instruct(steps: Steps, base: Base) -> System:
    """Request a student of the unchanged teacher."""
    return teach(steps, base, base.writer, UNCHANGED)


def teach(
    steps: Steps, base: Base, teacher: Address, who: Who, *, purpose: str = "training", training_purpose: str = ""
) -> System:
    """Request a training set of `teacher`, and a student fine-tuned on it.

    `purpose` gives the generation a seed of its own, and `training_purpose` the fine-tuning.
    """
    size = steps.settings.training_size
    part = who.within("training set")
    instructions = steps.instructions(teacher, base.seeds, size, purpose=purpose, who=part)
    pairs = steps.responses(teacher, instructions, part)
    return train_and_measure(steps, base, pairs, who=who, instructions=instructions, training_purpose=training_purpose)


def train_and_measure(
    steps: Steps,
    base: Base,
    pairs: Shards,
    *,
    who: Who,
    instructions: Address | None = None,
    training_purpose: str = "",
) -> System:
    """Request a student fine-tuned on a training set, and its metrics."""
    student = steps.train_student(base.student, pairs, who, training_purpose)
    metrics = steps.evaluate(student, base.reference, base.test, who)
    return System(who, student, metrics, instructions, pairs)


def tune_teacher(
    steps: Steps, base: Base, teacher: Address, *, writer: Address, probed: Address, purpose: str, who: Who
) -> Tuned:
    """Request the tuning of `teacher` to the data that the student `probed` learns most from.

    `writer` generates the probing set. It is the teacher itself, or an endpoint with the same model.
    """
    size = steps.settings.probing.warm_up + steps.settings.probing.probing

    instructions = steps.instructions(writer, base.seeds, size, purpose=purpose, who=who)
    pairs = steps.responses(writer, instructions, who)
    split = steps.split(pairs, who)
    inputs = {"instructions": [instructions], "pairs": pairs}

    if steps.settings.preferences.signal == "rating":
        ratings = steps.ratings(writer, [split], "probing.parquet", who)
        tuned, more = update_on_instructions(steps, teacher, instructions, scores=ratings, who=who)
        return Tuned(tuned, None, {}, {**inputs, **more})

    warm = steps.warm_up(probed, split, who)
    reference = steps.reference_inputs(warm, base.reference, who)
    if steps.settings.update == "responses":
        pairs, scores, tuned, more = update_on_responses(
            steps, teacher, writer=writer, split=split, warm=warm, reference=reference, who=who
        )
        inputs["pairs"] = pairs
    else:
        scores = steps.influence(warm, reference, [split], file="probing.parquet", who=who)
        tuned, more = update_on_instructions(steps, teacher, instructions, scores=scores, who=who)
    return Tuned(tuned, warm, reference, {**inputs, "warm-up": [warm], "scores": scores, **more})


def update_on_instructions(
    steps: Steps, teacher: Address, instructions: Address, *, scores: Shards, who: Who
) -> tuple[Address, dict[str, list[Address]]]:
    """Request the update of a teacher on its better instructions. Return it, and the inputs for the report."""
    if steps.settings.update == "bootstrap":
        tuned = steps.bootstrap(teacher, instructions, scores, who)
        return tuned, {"teacher": [tuned]}
    preferences = steps.preferences(instructions, scores, who)
    tuned = steps.update_teacher(teacher, preferences, who)
    return tuned, {"preferences": [preferences], "teacher": [tuned]}


def update_on_responses(
    steps: Steps,
    teacher: Address,
    *,
    writer: Address,
    split: Address,
    warm: Address,
    reference: ReferenceInputs,
    who: Who,
) -> tuple[Shards, Shards, Address, dict[str, list[Address]]]:
    """Request the ablation "response optimisation": update a teacher on its better responses to an instruction.

    The number of scored points is that of an update on instructions. Return the responses, their scores, the teacher,
    and the inputs for the report.
    """
    limit = steps.settings.probing.probing // steps.settings.responses.samples
    samples = steps.samples(writer, split, who, limit=limit, file="probing.parquet")
    scores = steps.influence(warm, reference, samples, file="pairs.parquet", who=who)
    preferences = steps.preferred_responses(samples, scores, who)
    tuned = steps.update_teacher(teacher, preferences, who)
    return samples, scores, tuned, {"preferences": [preferences], "teacher": [tuned]}


def score_after_update(steps: Steps, tuned: Tuned, system: System, who: Who) -> dict[str, list[Address]]:
    """Request the influence of the tuned teacher's points, if the settings want it."""
    if not steps.settings.influence.after or not tuned.warm:
        return {}
    part = who.within("after the update")
    scores = steps.influence(tuned.warm, tuned.reference, system.pairs, file="pairs.parquet", who=part)
    return {"scores-after": scores}


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Tune the teacher again in each iteration, and train a student on its data."""
    teacher, writer, student = base.teacher, base.writer, base.student
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        assert teacher, "the settings have a teacher wherever one is tuned"
        who = Who("Montessori", number)
        probed = base.student if steps.settings.probing.student == "base" else student
        tuned = tune_teacher(steps, base, teacher, writer=writer, probed=probed, purpose=f"probing {number}", who=who)
        system = teach(steps, base, tuned.teacher, who)
        inputs = {**tuned.inputs, **score_after_update(steps, tuned, system, who)}
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
