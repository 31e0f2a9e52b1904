"""Request the iterations of Self-Reward (arXiv 2401.10020): a teacher learns from ratings of its own responses.

The judge is the teacher itself by default. The student of an iteration is the base student, fine-tuned on data of the
updated teacher. Its training set is as large as all others.
"""

from flows.methods.montessori_instruct import Base, Iteration, teach
from flows.requests.builder import Who
from flows.requests.steps import Steps


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Tune each teacher on the best rated response over the worst, for its own instructions."""
    teacher, writer = base.teacher, base.writer
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        assert teacher, "the settings have a teacher wherever one is tuned"
        who = Who("Self-Reward", number)
        count = steps.settings.probing.probing // steps.settings.responses.samples
        instructions = steps.instructions(writer, base.seeds, count, purpose=f"rewarding {number}", who=who)
        samples = steps.samples(writer, instructions, who, limit=count, file="instructions.parquet")
        ratings = steps.ratings(writer, samples, "pairs.parquet", who)
        preferences = steps.preferred_responses(samples, ratings, who, signal="rating", split="best_worst")
        teacher = writer = steps.update_teacher(teacher, preferences, who)
        system = teach(steps, base, teacher, who)
        inputs = {"instructions": [instructions], "pairs": samples, "preferences": [preferences], "teacher": [teacher]}
        done.append(Iteration(number, system, teacher, inputs))
    return done
