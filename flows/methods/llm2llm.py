"""LLM2LLM (arXiv 2403.15042), one line a step: new points like those that the student gets wrong.

The first training set is Self-Instruct's. As in the paper mistakes are looked for among its points alone, not among
those written since, and each student begins as the base student. All sets have the same size: what is new takes the
place of points that the student gets right.
"""

from flows.methods.montessori_instruct import Base, Iteration, self_instruct, taught_on
from flows.requests.builder import Shards, Who
from flows.requests.steps import Steps


def iterations(steps: Steps, base: Base) -> list[Iteration]:
    """Each finds the mistakes of the student before, and has the unchanged teacher write more points like them."""
    size, share = steps.settings.training_size, steps.settings.llm2llm.new_share
    first = self_instruct(steps, base)
    student, added = first.student, Shards()
    done: list[Iteration] = []
    for number in range(1, steps.settings.iterations + 1):
        who = Who("LLM2LLM", number)
        mistakes = steps.mistakes(student, first.pairs, who)
        written = steps.instructions(base.writer, mistakes, max(1, round(share * size)), f"like them {number}", who)
        added = added + steps.responses(base.writer, written, who)
        union = steps.union(first.pairs, mistakes, added, who)
        system = taught_on(steps, base, [union], who, written)
        student = system.student
        done.append(Iteration(number, system, inputs={"mistakes": [mistakes]}))
    return done
