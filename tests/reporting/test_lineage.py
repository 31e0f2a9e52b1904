import random

from montessori.reporting.run.data import Report, Stage
from montessori.reporting.run.lineage import layout


def test_parents_come_before_children_and_shards_are_one_node(report: Report) -> None:
    nodes = layout(report.stages)
    assert all(parent < index for index, node in enumerate(nodes) for parent in node.parents)
    assert sum(len(node.stages) for node in nodes) == len({stage.address for stage in report.stages})
    influence = [node for node in nodes if node.stage == "influence"]
    assert [(node.label, len(node.stages)) for node in influence] == [("iteration 1", 4), ("iteration 2", 4)]


def test_a_parent_that_another_parent_implies_is_left_out() -> None:
    stages = [
        Stage("c", "c", 1, parents=["a", "b"]),
        Stage("b", "b", 1, parents=["a"]),
        Stage("a", "a", 1),
    ]
    assert [(node.stage, node.parents) for node in layout(stages)] == [("a", []), ("b", [0]), ("c", [1])]


def test_no_line_runs_through_another_node() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        stages = [
            Stage(f"s{i}", f"{i}", 1, parents=[f"{p}" for p in rng.sample(range(i), min(i, rng.randint(0, 3)))])
            for i in range(20)
        ]
        nodes = layout(stages)
        for index, node in enumerate(nodes):
            for parent in node.parents:
                assert all(nodes[k].lane != nodes[parent].lane for k in range(parent + 1, index))


def test_unknown_parents_repeated_artifacts_and_cycles_do_not_stop_the_drawing() -> None:
    stages = [
        Stage("a", "a", 1, parents=["b", "gone"]),
        Stage("b", "b", 1, parents=["a"]),
        Stage("a", "a", 1, parents=["b"]),
    ]
    assert sorted(node.stage for node in layout(stages)) == ["a", "b"]
