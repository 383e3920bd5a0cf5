"""RandomWalks: find a short way through a graph, letter by letter.

It is trlX's task of that name. The task, its constants and its score are those of trlX's
`examples/randomwalks/randomwalks.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from . import guides_of_text
from .text import PromptEnv

NODES = 21
LONGEST_WALK = 10  # nodes, the start included
EDGE_PROBABILITY = 0.1
GRAPH_SEED = 1002
GOAL = 0
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class RandomWalks(PromptEnv):
    """Walk from a given node of a fixed directed graph to the node a in as few steps as possible.

    The graph is not shown; a writer knows it from `demonstrations`, walks at random. One turn.

    Observation: the letter of the start, one of the 20 others. Action: the rest of the walk, a
    letter a node, no spaces; what follows the first a is not looked at.

    Reward: optimality, 1 for the shortest way from this start, falling in a straight line with each
    further step to 0 for a walk of 10 nodes. A step where there is no edge, any other character and
    a walk that has not reached a within 10 nodes give 0, too. trlX scores a walk of more nodes
    below 0, of which it makes none. The best return is 1 from every start.

    There are no held-out tasks: `options={"split": "test"}` changes nothing.

    Version History:
        v0: trlX's graph (seed 1002) and score.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        **PromptEnv.metadata,
        "question": "Which walk reaches a in fewer steps?",
        "guide": guides_of_text.RANDOM_WALKS,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        """Draw the graph."""
        self.edges = draw_edges(NODES, EDGE_PROBABILITY, GRAPH_SEED)
        self.shortest = shortest_walks(self.edges)
        # With 10 nodes or more to go there is nothing to tell apart (trlX divides 0 by 0).
        self.starts = np.flatnonzero(
            (self.shortest < LONGEST_WALK) & (np.arange(NODES) != GOAL)
        ).tolist()
        super().__init__(
            [LETTERS[start] for start in self.starts],
            lambda start, rest: optimality(start + rest, self.edges, self.shortest),
            render_mode=render_mode,
        )

    def demonstrations(self, count: int = 1000, seed: int = 0) -> list[list[tuple[str, str]]]:
        """Return walks at random, each a list of its one turn (start, rest of the walk).

        They end at the goal or after 10 nodes, as trlX's do, of which there are 1,000.
        """
        generator = np.random.default_rng(seed)
        walks = [self._walk_at_random(generator) for _ in range(count)]
        return [[(walk[0], walk[1:])] for walk in walks]

    def _walk_at_random(self, generator: np.random.Generator) -> str:
        nodes = [int(generator.choice(self.starts))]
        while len(nodes) < LONGEST_WALK and nodes[-1] != GOAL:
            nodes.append(int(generator.choice(np.flatnonzero(self.edges[nodes[-1]]))))
        return "".join(LETTERS[node] for node in nodes)


def draw_edges(nodes: int, probability: float, seed: int) -> np.ndarray:
    """Return which node leads to which, bool `[from, to]`.

    Every node leads to another, the goal only to itself. Drawn with the generator and in the order
    of trlX, so that a seed gives the same graph.
    """
    generator = np.random.RandomState(seed)
    edges = np.zeros((nodes, nodes), bool)
    while not edges.any(axis=1).all():
        edges = generator.rand(nodes, nodes) > 1 - probability
        np.fill_diagonal(edges, False)
    edges[GOAL] = np.arange(nodes) == GOAL
    return edges


def shortest_walks(edges: np.ndarray) -> np.ndarray:
    """Return how many nodes the shortest walk from each node to the goal has, both ends included.

    At most `LONGEST_WALK`, also where there is no walk, as in trlX. Breadth first, from the goal.
    """
    shortest = np.full(len(edges), LONGEST_WALK)
    reached = np.arange(len(edges)) == GOAL
    shortest[GOAL] = 1
    for length in range(2, LONGEST_WALK):
        newly_reached = edges[:, reached].any(axis=1) & ~reached
        shortest[newly_reached] = length
        reached |= newly_reached
    return shortest


def optimality(walk: str, edges: np.ndarray, shortest: np.ndarray) -> float:
    """Return how near a walk, its start included, is to the shortest, from 0 to 1.

    (L − n) / (L − m), where n of the walk's nodes lead to the goal, m are the fewest that can, and
    L is `LONGEST_WALK`; 0 if an edge is missing or the goal is not reached within L nodes. The
    walk's start must be one with m < L.
    """
    nodes = [LETTERS[: len(edges)].find(letter) for letter in walk[:LONGEST_WALK]]
    if GOAL not in nodes:
        return 0.0
    nodes = nodes[: nodes.index(GOAL) + 1]
    if -1 in nodes or not all(edges[a, b] for a, b in pairwise(nodes)):
        return 0.0
    return float((LONGEST_WALK - len(nodes)) / (LONGEST_WALK - shortest[nodes[0]]))
