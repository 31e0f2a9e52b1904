"""The lineage of artifacts, laid out like a version history.

In: the stages of a run.  Out: nodes, parents before children, shards of one stage together as one node.
"""

from dataclasses import dataclass

from montessori.reporting.run.data import Stage


@dataclass
class Node:
    """One artifact, or the shards of one stage. Parents are indices of earlier nodes."""

    stage: str
    label: str
    stages: list[Stage]
    parents: list[int]
    lane: int = 0


def layout(stages: list[Stage]) -> list[Node]:
    """Return the nodes in drawing order; parents that another parent implies are left out."""
    nodes: list[Node] = []
    node_of: dict[str, int] = {}  # artifact's address → node
    shards_of: dict[tuple[str, str, frozenset[int]], int] = {}
    for stage in _parents_first(stages):
        parents = frozenset(node_of[address] for address in stage.parents if address in node_of)
        key = (stage.stage, stage.label, parents)
        if stage.shard and key in shards_of:
            nodes[shards_of[key]].stages.append(stage)
        else:
            shards_of[key] = len(nodes)
            nodes.append(Node(stage.stage, stage.label, [stage], sorted(parents)))
        node_of[stage.address] = shards_of[key]
    _drop_implied(nodes)
    _assign_lanes(nodes)
    return nodes


def _parents_first(stages: list[Stage]) -> list[Stage]:
    """Order each artifact once, inputs right before what first needs them."""
    by_address = {stage.address: stage for stage in stages}
    ordered: dict[str, Stage] = {}
    entered: set[str] = set()  # a cycle cannot come from content addresses; if it did, drawing must still end

    def place(stage: Stage) -> None:
        if stage.address in entered:
            return
        entered.add(stage.address)
        for parent in stage.parents:
            if parent in by_address:
                place(by_address[parent])
        ordered[stage.address] = stage

    for stage in sorted(by_address.values(), key=lambda s: not s.parents):  # stable: those with parents first
        place(stage)
    return list(ordered.values())


def _drop_implied(nodes: list[Node]) -> None:
    """Reduce transitively: a parent that is an ancestor of another parent says nothing new."""
    ancestors: list[set[int]] = []
    for node in nodes:
        ancestors.append(set(node.parents).union(*(ancestors[p] for p in node.parents)))
    for node in nodes:
        node.parents = [p for p in node.parents if not any(p in ancestors[q] for q in node.parents)]


def _assign_lanes(nodes: list[Node]) -> None:
    """Let a node keep its lane until its last child, which inherits it; so no line runs through another node."""
    waiting = [0] * len(nodes)
    for node in nodes:
        for parent in node.parents:
            waiting[parent] += 1
    taken: set[int] = set()
    for index, node in enumerate(nodes):
        ended = []
        for parent in node.parents:
            waiting[parent] -= 1
            if not waiting[parent]:
                ended.append(nodes[parent].lane)
        node.lane = min(ended) if ended else min(set(range(len(taken) + 1)) - taken)
        taken.difference_update(ended)
        if waiting[index]:
            taken.add(node.lane)
