"""The reference search: `docs/search.md` in slow, plain Python, to judge the compiled kernels.

Written from that page and its papers alone; "section" below names a heading of that page. Every
tree number is a NumPy float32 scalar; Python floats are the page's *f64*.

Readings, where the page leaves something open:
 R1  log of c: argument and logarithm in f64, rounded to float32, then c_puct is added in float32.
 R2  need(e) stays f64 when it is compared and floored; it is not rounded to float32.
 R3  With no visits the target is prior(e) / sum of prior(e), the formula with m = prior.
 R4  T, the 0.01 that it is compared with and 1 / T are f64.
 R5  Without noise the Gumbel draws are 0.
 R6  The edge to a child that is not stored is itself stored: it is backed up, with its seat's w.
 R7  v_mix[p] and the root value for another seat than the mover: an edge whose child is not
     stored (or has no finished visit) is left out of M as well as of S and Q.
 R8  An open root is evaluated even with budget 0, and with K > 1 alone: the next descent meets it.
 R9  A forced root without visits has value 0 for every seat.
 R10 A descent's pending visit is added when it has ended, so it does not see itself.
 R11 A descent that collides was not begun: s and t stay. It counts no overflow either.
 R12 A leaf that is not stored can not be met again, so it never collides.
 R13 A descent that ends the game is backed up at once and is not one of the K leaves.
 R14 `overflow` and n_s start from 0 at each search; a kept subtree is what counts as nodes and
     edges in use.
 R15 A forced root knows no root rule, and its search still spends the budget. A root where no seat
     is to move can not be searched.
 R16 Without noise there are no forced playouts, hence no pruning of the target.
 R17 With K > 1 `n(e) > 0` in q, cq, v_mix and mean asks for finished visits.

and in its paragraph "Exact expectation":
 R18 The choice of an outcome reads visits plus pending, so K > 1 descents sweep a node side by side;
     the backup asks for finished visits alone, as every backup does.
 R19 "Has overflowed" holds from the moment at which such a descent has begun until the next search
     begins: simulations that were selected before and are answered after it pass on, too.
 R20 Below the first state that is not stored outcomes are drawn, in the first such descent as well:
     what is not stored can not be swept.
 R21 One child that is not stored, or has visit_count 0, among all of the chance node's edges is
     enough for the vector to go on unchanged; the node and those above still count the visit.
 R22 The simulation that is not finished keeps what it did below the chance node: visits, values, n.
     s and t go down by one when its backup ends, whatever has begun meanwhile.
 R23 A forced node's `value` is the vector as it passes: v' where a chance node below replaced it.
 R24 What a sweep has done stays in a kept tree; a later search goes on with the edges that have n = 0.
 R25 With K > 1 a simulation that was not finished leaves a gap in the Gumbel root's schedule when
     others have begun meanwhile, and no edge may have n_s = considered(t). Then the edges with the
     greatest n_s below considered(t) are compared. One exists: considered(t) >= t / m, rounded down.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

F = np.float32
CHANCE, TERMINAL = -1, -2
ROOT_NOISE, SEARCH_CHANCE, ACTION = 3, 4, 5  # purposes, as in zeroloop/draws.py


# Draws: a pure function of (seed, purpose, game, ply, index), by way of NumPy's own Philox.


@functools.lru_cache(maxsize=1 << 16)
def _block(seed: int, purpose: int, game: int, ply: int, block: int) -> list[int]:
    counter = (block | ply << 64 | game << 128) - 1  # NumPy counts up before it generates
    bits = np.random.Philox(counter=counter % (1 << 256), key=seed | purpose << 64)
    return [int(word) for word in bits.random_raw(4)]


def uniform(seed: int, purpose: int, game: int, ply: int, index: int) -> float:
    word = _block(seed, purpose, game, ply, index // 4)[index % 4]
    return ((word >> 12) + 0.5) * 2.0**-52


def gumbel(seed: int, purpose: int, game: int, ply: int, index: int) -> float:
    return -math.log(-math.log(uniform(seed, purpose, game, ply, index)))


@functools.lru_cache(maxsize=1 << 16)
def gamma(seed: int, purpose: int, game: int, ply: int, index: int, alpha: float) -> float:
    """Marsaglia and Tsang 2000, section 6 for alpha < 1; uniforms from 1024 * index on."""
    u = functools.partial(uniform, seed, purpose, game, ply)
    i = 1024 * index + 1
    boost = u(i - 1) ** (1.0 / alpha) if alpha < 1.0 else 1.0
    d = (alpha + 1.0 if alpha < 1.0 else alpha) - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = math.sqrt(-2.0 * math.log(u(i))) * math.cos(2.0 * math.pi * u(i + 1))
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(u(i + 2)) < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v
        i += 3


def softmax(x: list[F]) -> list[F]:
    """Section Tree: float32 subtraction, f64 exponential, float32 sum in order."""
    top = max(x)
    e = [F(math.exp(float(x_i - top))) for x_i in x]
    total = add(e, F(0))
    return [e_i / total for e_i in e]


def add(items: list[Any], start: Any) -> Any:
    """In order and in the type of `start`; the built-in sum compensates from Python 3.12 on."""
    for item in items:
        start = start + item
    return start


# Section Tree.


@dataclass(eq=False)
class Edge:
    action: int
    child: Node | None = None
    n: int = 0  # finished visits, inherited ones included
    n_s: int = 0  # finished visits of this search
    pending: int = 0
    w: F = F(0)
    logit: F = F(0)
    prior: F = F(1)


@dataclass(eq=False)
class Node:
    state: Any
    kind: str  # "terminal", "chance", "forced" or "decision"
    seat: int
    edges: list[Edge]
    value: list[F]
    value_sum: list[F]
    visits: int = 0
    pending: int = 0
    open: bool = False  # a decision node whose evaluation has not arrived
    waiting: bool = False  # open, and asked for


@dataclass(eq=False)
class Descent:
    leaf: Node
    nodes: list[Node] = field(default_factory=list)  # the stored part of the path, root first
    edges: list[tuple[Edge, int]] = field(default_factory=list)  # with the seat at the parent
    overflow: bool = False


class ReferenceSearch:
    """One tree and the searches in it.

    Args:
      evaluator: `(state, legal ids) -> (logits f32 [k], values f32 [P])`.
      numbers: c_puct, c_puct_base, fpu_reduction, root_fpu_reduction, dirichlet_total,
        dirichlet_fraction, forced_playouts, gumbel_actions, gumbel_scale, c_visit, c_scale.
    """

    def __init__(
        self,
        game: Any,
        state: Any,
        evaluator: Callable[[Any, list[int]], tuple[Any, Any]],
        *,
        rule: str,
        numbers: dict[str, float],
        seed: int = 0,
        game_id: int = 0,
        ply: int = 0,
        noise: bool = False,
        interior: str = "puct",
        chance: str = "sampling",
        max_nodes: int | None = None,
        max_edges: int | None = None,
    ) -> None:
        assert rule in ("puct", "gumbel") and interior in ("puct", "gumbel")
        assert chance in ("sampling", "expectation")
        self.game, self.evaluator, self.rule, self.interior = game, evaluator, rule, interior
        self.chance = chance
        self.numbers = {name: F(number) for name, number in numbers.items()}
        self.seed, self.game_id, self.ply, self.noise = seed, game_id, ply, noise
        self.max_nodes = math.inf if max_nodes is None else max_nodes
        self.max_edges = math.inf if max_edges is None else max_edges
        self.budget = self.begun = self.overflow = 0
        self._plant(self.node(game.copy(state)))

    def _plant(self, root: Node) -> None:
        """Make the node the root; nodes and edges in use are those of its subtree."""
        self.root, self.num_nodes, self.num_edges = root, 0, 0
        todo = [root]
        while todo:
            node = todo.pop()
            self.num_nodes, self.num_edges = self.num_nodes + 1, self.num_edges + len(node.edges)
            todo.extend(edge.child for edge in node.edges if edge.child is not None)

    def node(self, state: Any) -> Node:
        """Section Tree, "Kinds of node"."""
        seat = int(self.game.rules["to_play"](state))
        if seat == TERMINAL:
            kind, edges = "terminal", []
        elif seat == CHANCE:
            kind = "chance"
            edges = [Edge(outcome, prior=F(p)) for outcome, p in self.game.chance(state)]
        else:
            edges = [Edge(action) for action in self.game.legal(state)]
            kind = "forced" if len(edges) == 1 else "decision"
        zero = [F(0)] * self.game.num_players
        return Node(state, kind, seat, edges, zero, list(zero), open=kind == "decision")

    def after(self, state: Any, action: int) -> Any:
        state = self.game.copy(state)
        self.game.rules["apply_action"](state, action)
        return state

    def uniform(self, purpose: int, index: int) -> float:
        return uniform(self.seed, purpose, self.game_id, self.ply, index)

    # Sections One simulation and Several leaves from one tree.

    def run(self, budget: int) -> None:
        """A whole search of `budget` new simulations, one leaf at a time."""
        self.run_leaves(budget, 1)

    def run_leaves(self, budget: int, k: int) -> None:
        """A whole search that gathers up to k leaves before it answers them."""
        if self.root.seat < 0:
            raise ValueError("no seat is to move at the root")
        self.budget, self.begun, self.overflow = budget, 0, 0
        for edge in self.root.edges:
            edge.n_s = 0
        while self.root.open or self.begun < budget:
            for descent in self.gather(k):
                self.evaluate(descent.leaf)
                self.backup(descent, descent.leaf.value)

    def gather(self, k: int) -> list[Descent]:
        """Begin simulations until k leaves wait, one is met twice or the budget has begun."""
        asked: list[Descent] = []
        while len(asked) < k and (self.root.open or self.begun < self.budget):
            descent = self.descend()
            if descent.leaf.waiting:
                break  # a collision (R11)
            if descent.leaf is not self.root:  # else it only evaluates the root: no simulation
                self.begun += 1
                self.overflow += descent.overflow
            for item in descent.nodes + [edge for edge, _ in descent.edges]:
                item.pending += 1
            if descent.leaf.kind == "terminal":
                self.backup(descent, self.terminal_value(descent.leaf.state))  # R13
            else:
                descent.leaf.waiting = True
                asked.append(descent)
        return asked

    def descend(self) -> Descent:
        """Walk from the root to a leaf; store the new nodes on the way while there is room."""
        node, depth, stored = self.root, 0, True
        descent = Descent(node, [node])
        while node.kind != "terminal" and not node.open:
            edge = self.choose(node, depth, stored)
            if stored:
                descent.edges.append((edge, node.seat))
            child = edge.child
            if child is None:
                child = self.node(self.after(node.state, edge.action))
                # Section One simulation, "A full tree".
                nodes, edges = self.num_nodes + 1, self.num_edges + len(child.edges)
                stored = stored and nodes <= self.max_nodes and edges <= self.max_edges
                if stored:
                    edge.child, self.num_nodes, self.num_edges = child, nodes, edges
            node, depth = child, depth + 1
            if stored:
                descent.nodes.append(node)
        descent.leaf, descent.overflow = node, not stored
        return descent

    def exact(self) -> bool:
        """Whether chance nodes are swept and averaged just now (R19)."""
        return self.chance == "expectation" and self.overflow == 0

    def choose(self, node: Node, depth: int, stored: bool) -> Edge:
        if node.kind == "forced":
            return node.edges[0]
        if node.kind == "chance" and stored and self.exact():  # R20
            return self.next_outcome(node)
        if node.kind == "chance":
            u = self.uniform(SEARCH_CHANCE, 1024 * self.begun + depth % 1024)
            total = 0.0
            for edge in node.edges:
                total += float(edge.prior)  # f64
                if total > u:
                    return edge
            return node.edges[-1]
        if node is self.root:
            return self.puct_root(node) if self.rule == "puct" else self.gumbel_root(node)
        return self.puct_interior(node) if self.interior == "puct" else self.gumbel_interior(node)

    def next_outcome(self, node: Node) -> Edge:
        """The outcome without visits, else the one that is furthest behind its share (f64, R18)."""
        n = [edge.n + edge.pending for edge in node.edges]
        if 0 in n:
            return node.edges[n.index(0)]
        total = 1 + sum(n)
        behind = [float(e.prior) * total - n_e for e, n_e in zip(node.edges, n, strict=True)]
        return node.edges[behind.index(max(behind))]

    def expected_value(self, node: Node, v: list[F]) -> list[F]:
        """The mean of what the outcomes have seen so far, or v where one of them is not known (R21)."""
        known = [(e.prior, e.child) for e in node.edges if e.child is not None and e.child.visits > 0]
        if len(known) < len(node.edges):
            return v
        out = []
        for p in range(len(v)):
            terms = [prior * (child.value_sum[p] / F(child.visits)) for prior, child in known]
            out.append(add(terms, F(0)))
        return out

    def terminal_value(self, state: Any) -> list[F]:
        """Section Numbers: points divided by the table's largest magnitude."""
        row = int(self.game.rules["outcome"](state))
        return [F(points) / F(self.game.scale) for points in self.game.outcomes[row]]

    def evaluate(self, node: Node) -> None:
        logits, values = self.evaluator(node.state, [edge.action for edge in node.edges])
        node.value = [F(v) for v in values]
        priors = softmax([F(x) for x in logits])
        for edge, logit, prior in zip(node.edges, logits, priors, strict=True):
            edge.logit, edge.prior = F(logit), prior
        node.open = node.waiting = False

    def backup(self, descent: Descent, v: list[F]) -> None:
        """Section One simulation, "Backup", from the leaf up: each seat its own entry, no sign anywhere."""
        exact = self.exact()
        for item in descent.nodes + [edge for edge, _ in descent.edges]:
            item.pending -= 1
        for depth, node in reversed(list(enumerate(descent.nodes))):
            if depth < len(descent.edges):
                edge, seat = descent.edges[depth]
                edge.n, edge.n_s = edge.n + 1, edge.n_s + 1
                if seat != CHANCE:
                    edge.w = edge.w + v[seat]
                elif exact:
                    if any(outcome.n == 0 for outcome in node.edges):
                        self.begun -= 1  # not finished (R22)
                        return
                    v = self.expected_value(node, v)
            node.visits += 1
            node.value_sum = [total + x for total, x in zip(node.value_sum, v, strict=True)]
            if node.kind == "forced" and node.visits == 1:
                node.value = list(v)

    # Section PUCT (Silver et al. 2018; at the root also Wu 2019).

    def q(self, node: Node, edge: Edge, reduction: F) -> F:
        if edge.n > 0:
            return edge.w / F(edge.n)
        return node.value_sum[node.seat] / F(max(node.visits, 1)) - reduction

    def exploration(self, node: Node) -> F:
        """c * sqrt(N)."""
        n = node.visits + node.pending
        c, base = self.numbers["c_puct"], float(self.numbers["c_puct_base"])
        if base > 0:
            c = c + F(math.log((1 + n + base) / base))  # f64 logarithm (R1)
        return c * np.sqrt(F(n))

    def score(self, node: Node, edge: Edge, prior: F, n: int, reduction: F) -> F:
        """q(e) + ((c * sqrt(N)) * prior(e)) / (1 + n(e))."""
        return self.q(node, edge, reduction) + (self.exploration(node) * prior) / (F(1) + F(n))

    def puct_scores(self, node: Node, priors: list[F], reduction: F) -> list[F]:
        pairs = zip(node.edges, priors, strict=True)
        return [self.score(node, e, prior, e.n + e.pending, reduction) for e, prior in pairs]

    def puct_interior(self, node: Node) -> Edge:
        priors = [edge.prior for edge in node.edges]
        return highest(node, self.puct_scores(node, priors, self.numbers["fpu_reduction"]))

    def noisy_priors(self) -> list[F]:
        """prior' = (1 - f) * prior + f * eta."""
        edges = self.root.edges
        if not self.noise:
            return [edge.prior for edge in edges]
        where = (self.seed, ROOT_NOISE, self.game_id, self.ply)
        f, alpha = self.numbers["dirichlet_fraction"], float(self.numbers["dirichlet_total"])
        g = [gamma(*where, e, alpha / len(edges)) for e in range(len(edges))]  # f64
        total = add(g, 0.0)
        eta = [F(g_e / total) for g_e in g]
        return [(F(1) - f) * e.prior + f * eta_e for e, eta_e in zip(edges, eta, strict=True)]

    def forcing(self) -> bool:
        return self.noise and self.numbers["forced_playouts"] > 0

    def needs(self, priors: list[F]) -> list[float]:
        """Wu 2019, section 3.2: sqrt(k P(c) sum of N), f64 (R2)."""
        total = sum(edge.n + edge.pending for edge in self.root.edges)
        factor = float(self.numbers["forced_playouts"])
        return [math.sqrt(factor * float(prior) * total) for prior in priors]

    def puct_root(self, root: Node) -> Edge:
        priors = self.noisy_priors()
        if self.forcing():
            for edge, need in zip(root.edges, self.needs(priors), strict=True):
                if 0 < edge.n + edge.pending < need:
                    return edge
        return highest(root, self.puct_scores(root, priors, self.numbers["root_fpu_reduction"]))

    def target_visits(self) -> list[Any]:
        """m(e): the visits, less those that were only forced (Wu 2019, "policy target pruning")."""
        root, edges = self.root, self.root.edges
        visits = [edge.n for edge in edges]
        if max(visits) == 0:
            return [edge.prior for edge in edges]
        if not self.forcing():
            return visits
        priors, reduction = self.noisy_priors(), self.numbers["root_fpu_reduction"]
        needs = self.needs(priors)
        best = visits.index(max(visits))
        final = self.score(root, edges[best], priors[best], visits[best], reduction)
        m = list(visits)
        for e, edge in enumerate(edges):
            if e == best or visits[e] == 0:
                continue
            for _ in range(math.floor(needs[e])):
                if m[e] == 0 or not self.score(root, edge, priors[e], m[e] - 1, reduction) < final:
                    break
                m[e] -= 1
            if m[e] <= 1:
                m[e] = 0
        return m

    def puct_target(self) -> list[F]:
        m = [F(m_e) for m_e in self.target_visits()]
        total = add(m, F(0))
        return [m_e / total for m_e in m]

    def puct_action(self, temperature: float) -> int:
        m = self.target_visits()
        if temperature < 0.01:  # R4
            return m.index(max(m))
        power = 1.0 / temperature
        weights = [(float(m_e) / float(max(m))) ** power for m_e in m]
        threshold, running = self.uniform(ACTION, 0) * add(weights, 0.0), 0.0
        for e, weight in enumerate(weights):
            running += weight
            if running > threshold:
                return e
        return len(m) - 1

    # Section Gumbel (Danihelka et al. 2022).

    def sigma(self, q: F, x: int) -> F:
        """Their sigma, with q brought from [-1, 1] to [0, 1]."""
        scale = (self.numbers["c_visit"] + F(x)) * self.numbers["c_scale"]
        return scale * ((q + F(1)) * F(0.5))

    def mean(self, node: Node, edge: Edge, p: int) -> F | None:
        """mean_p(e), or None where the edge counts as unvisited for seat p."""
        if edge.n == 0:
            return None
        if p == node.seat:
            return edge.w / F(edge.n)
        if edge.child is None or edge.child.visits == 0:
            return None
        return edge.child.value_sum[p] / F(edge.child.visits)

    def v_mix(self, node: Node, p: int) -> F:
        """Their Appendix D: the network value mixed with the visited q, weighted by prior."""
        m, s, q = 0, F(0), F(0)
        for edge in node.edges:
            mean = self.mean(node, edge, p)
            if mean is not None:
                m, s, q = m + edge.n, s + edge.prior, q + edge.prior * mean
        if m == 0 or s == 0:
            return node.value[p]
        return (node.value[p] + (F(m) / s) * q) / (F(1) + F(m))

    def completed(self, node: Node) -> list[F]:
        """cq(e) for the seat to move."""
        mixed = self.v_mix(node, node.seat)
        means = [self.mean(node, edge, node.seat) for edge in node.edges]
        return [mixed if mean is None else mean for mean in means]

    def considered(self, t: int) -> int:
        """Sequential halving, spelt as the visits that a candidate of simulation t has."""
        m = min(int(self.numbers["gumbel_actions"]), len(self.root.edges))
        if m == 1:
            return t
        k, base, start, phases = m, 0, 0, (m - 1).bit_length()  # ceil(log2(m))
        while True:
            x = max(1, self.budget // (phases * k))
            if t < start + x * k:
                return base + (t - start) // k
            start, base, k = start + x * k, base + x, max(2, k // 2)

    def gumbel_scores(self) -> list[F]:
        """(g(e) + logit(e)) + sigma(cq(e), max n_s)."""
        root, scale = self.root, float(self.numbers["gumbel_scale"])
        most = max(edge.n_s + edge.pending for edge in root.edges)
        scores = []
        for e, (edge, q) in enumerate(zip(root.edges, self.completed(root), strict=True)):
            draw = gumbel(self.seed, ROOT_NOISE, self.game_id, self.ply, e) if self.noise else 0.0
            g = F(scale * draw)
            scores.append((g + edge.logit) + self.sigma(q, most))
        return scores

    def gumbel_root(self, root: Node) -> Edge:
        n_s = [edge.n_s + edge.pending for edge in root.edges]
        wanted = self.considered(self.begun)
        nearest = max(n for n in n_s if n <= wanted)  # R25
        assert nearest == wanted or self.chance == "expectation"
        return highest(root, self.gumbel_scores(), [n == nearest for n in n_s])

    def improved_policy(self, node: Node, most: int) -> list[F]:
        """Their improved policy: softmax(logit + sigma(completed q))."""
        pairs = zip(node.edges, self.completed(node), strict=True)
        return softmax([edge.logit + self.sigma(q, most) for edge, q in pairs])

    def gumbel_interior(self, node: Node) -> Edge:
        """Their action selection below the root: pi(e) - n(e) / (1 + M)."""
        n = [edge.n + edge.pending for edge in node.edges]
        pi = self.improved_policy(node, max(n))
        share = [F(n_e) / (F(1) + F(sum(n))) for n_e in n]
        return highest(node, [a - b for a, b in zip(pi, share, strict=True)])

    def gumbel_target(self) -> list[F]:
        return self.improved_policy(self.root, max(edge.n_s for edge in self.root.edges))

    def gumbel_action(self) -> int:
        most = max(edge.n_s for edge in self.root.edges)
        allowed = [edge.n_s == most for edge in self.root.edges]
        best = highest(self.root, self.gumbel_scores(), allowed)
        return self.root.edges.index(best)

    def gumbel_value(self, p: int) -> F:
        root, value, mixed = self.root, F(0), self.v_mix(self.root, p)
        for edge, share in zip(root.edges, self.gumbel_target(), strict=True):
            mean = self.mean(root, edge, p)
            value = value + share * (mixed if mean is None else mean)
        return value

    # Section Tree reuse, and what a search returns.

    def advance(self, action: int) -> None:
        """Play the action or chance outcome; the child's subtree becomes the tree."""
        edge = next(edge for edge in self.root.edges if edge.action == action)
        bare = None if edge.child else self.node(self.after(self.root.state, action))
        self._plant(edge.child or bare)
        self.ply += 1

    def action(self, temperature: float = 0.0) -> int:
        """The action id to play."""
        e = self.puct_action(temperature) if self.rule == "puct" else self.gumbel_action()
        return self.root.edges[e].action

    def result(self) -> dict[str, Any]:
        """Arrays over the root's edges; `q` is the rule's own: with FPU, or completed."""
        root, edges = self.root, self.root.edges
        if self.rule == "puct":
            reduction = self.numbers["root_fpu_reduction"]
            q, target = [self.q(root, edge, reduction) for edge in edges], self.puct_target()
            value = [total / F(max(root.visits, 1)) for total in root.value_sum]
        else:
            q, target = self.completed(root), self.gumbel_target()
            value = [self.gumbel_value(p) for p in range(self.game.num_players)]
        return {
            "actions": [edge.action for edge in edges],
            "visits": [edge.n for edge in edges],
            "search_visits": [edge.n_s for edge in edges],
            "q": np.array(q, F),
            "prior": np.array([edge.prior for edge in edges], F),
            "policy_target": np.array(target, F),
            "root_value": np.array(value, F),
            "root_visits": root.visits,
            "action": self.action,
            "simulations": self.begun,
            "overflow": self.overflow,
            "nodes": self.num_nodes,
            "edges": self.num_edges,
        }


def highest(node: Node, scores: list[F], allowed: list[bool] | None = None) -> Edge:
    """The edge with the highest score, the lowest index on ties."""
    best = None
    for e, score in enumerate(scores):
        if (allowed is None or allowed[e]) and (best is None or score > scores[best]):
            best = e
    assert best is not None, "no edge is allowed"
    return node.edges[best]
