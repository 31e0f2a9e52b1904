"""Self-Reward (arXiv 2401.10020), one line a step: a teacher learns to answer as a judge, by default itself, rates.

In the comparison the model that rewards itself is the teacher, and its student is the base student fine-tuned on what
the updated teacher writes, on as many points as all others.
"""

from flows.methods.montessori_instruct import Base, Iteration, taught_by
from flows.requests.builder import Who
from flows.requests.steps import Steps


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Each teacher answers its own instructions several times, and learns the best rated answer over the worst."""
    teacher, writer = base.teacher, base.writer
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        assert teacher, "the settings have a teacher wherever one is tuned"
        who = Who("Self-Reward", number)
        count = steps.settings.probing.probing // steps.settings.responses.samples
        written = steps.instructions(writer, base.seeds, count, f"rewarding {number}", who)
        samples = steps.samples(writer, written, who, count, "instructions.parquet")
        ratings = steps.ratings(writer, samples, "pairs.parquet", who)
        preferences = steps.preferred_responses(samples, ratings, who, signal="rating", split="best_worst")
        teacher = writer = steps.update_teacher(teacher, preferences, who)
        system = taught_by(steps, base, teacher, who)
        inputs = {"instructions": [written], "pairs": samples, "preferences": [preferences], "teacher": [teacher]}
        done.append(Iteration(number, system, teacher, inputs))
    return done
