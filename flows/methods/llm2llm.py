"""Request the iterations of LLM2LLM (arXiv 2403.15042): new points like those that the student gets wrong.

The first training set is Self-Instruct's. As in the paper, only its points can be mistakes, and each student begins as
the base student. All training sets have the same size. New points replace points that the student gets right.
"""

from flows.methods.montessori_instruct import Base, Iteration, self_instruct, train_and_measure
from flows.requests.builder import Shards, Who
from flows.requests.steps import Steps


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Find the mistakes of each student, and generate more points like them with the unchanged teacher."""
    size, share = steps.settings.training_size, steps.settings.llm2llm.new_share
    first = self_instruct(steps, base)
    student, added = first.student, Shards()
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        who = Who("LLM2LLM", number)
        mistakes = steps.mistakes(student, first.pairs, who)
        target, purpose = max(1, round(share * size)), f"like them {number}"
        instructions = steps.instructions(base.writer, mistakes, target, purpose=purpose, who=who)
        added = added + steps.responses(base.writer, instructions, who)
        union = steps.union(first.pairs, mistakes, added, who)
        system = train_and_measure(steps, base, [union], who=who, instructions=instructions)
        student = system.student
        done.append(Iteration(number, system, inputs={"mistakes": [mistakes]}))
    return done
