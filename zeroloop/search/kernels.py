"""HOT: descend, absorb, advance - arrays in, arrays out, one call per batch. Knows nothing of networks.

The rules of selection are in `puct` and `gumbel`; what they leave open is fixed in docs/search.md.
"""

from __future__ import annotations

import math

import numpy as np

from .. import draws
from ..compiled import helper, kernel
from ..games.game import (
    CHANCE,
    TERMINAL,
    apply_action,
    chance_outcomes,
    legal_actions,
    num_players,
    outcome,
    outcome_value,
    to_play,
)
from . import gumbel, puct
from .tree import CACHE_HITS, GUMBEL, OPEN, OVERFLOWS, READY, SIMULATIONS, TERMINALS, WAITING

f32 = np.float32
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_S32 = np.uint64(32)
_S29 = np.uint64(29)

# What a descent came to.
RESOLVED = 0
LEAF_WAITS = 1
COLLISION = 2


@helper
def state_key(words):
    """Return a 128-bit hash of a state's words as two uint64, neither of them 0."""
    a, b = _MIX[0], _MIX[1]
    for i in range(words.shape[0]):
        a = (a ^ words[i]) * _MIX[1]
        a ^= a >> _S32
        b = (b + words[i]) * _MIX[2]
        b ^= b >> _S29
    a = (a ^ (b >> _S32)) * _MIX[0]
    a ^= a >> _S29
    b = (b ^ (a >> _S32)) * _MIX[1]
    b ^= b >> _S32
    return a | np.uint64(1), b | np.uint64(1)


@helper
def make_node(game, tree, nodes, edges, states, c, legal, chance):
    """Describe slot c from its state: write node, legal ids and edges; return the number of legal actions.

    The edges are stored only if they and the node fit; the caller sees that in `tree.nodes`.
    """
    node = nodes[c]
    p = to_play(game, states[c])
    k = 0
    if p >= 0:
        k = legal_actions(game, states[c], legal)
    elif p == CHANCE:
        k = chance_outcomes(game, states[c], legal, chance)
    node.to_play = p
    node.status = OPEN if p >= 0 and k > 1 else READY
    node.visit_count = 0
    node.pending = 0
    node.edge_start = tree.edges
    node.edge_count = k
    for seat in range(num_players(game)):
        node.value[seat] = f32(0)
        node.value_sum[seat] = f32(0)
    if c < nodes.shape[0] - 1 and tree.edges + k <= edges.shape[0]:
        tree.nodes = c + 1
        tree.edges += k
        for i in range(k):
            edge = edges[node.edge_start + i]
            edge.action = legal[i]
            edge.child = -1
            edge.visit_count = 0
            edge.pending = 0
            edge.prior = chance[i] if p == CHANCE else f32(1)
            edge.logit = f32(0)
            edge.value_sum = f32(0)
    return k


@helper
def chance_edge(seed, tree, begun, depth, probabilities, count):
    """Return which of the chance outcomes is drawn."""
    index = 1024 * begun + depth % 1024
    u = draws.uniform(seed, draws.SEARCH_CHANCE, tree.game, tree.ply, index)
    return draws.pick(probabilities, count, u)


@helper
def expand(node, edges, logits):
    """Store an evaluation's logits and their softmax in the node's edges."""
    start, count = node.edge_start, node.edge_count
    highest = logits[0]
    for i in range(1, count):
        highest = max(highest, logits[i])
    total = f32(0)
    for i in range(count):
        e = f32(math.exp(np.float64(logits[i] - highest)))
        edges[start + i].logit = logits[i]
        edges[start + i].prior = e
        total += e
    for i in range(count):
        edges[start + i].prior = edges[start + i].prior / total


@helper
def backup(game, tree, nodes, edges, path, length, leaf, values, pending, flow):
    """Carry the value vector from the leaf (-1: not stored) to the root; return whether it got there.

    A chance node of an exact expectation holds it back until every outcome has been visited, and
    passes on the expectation over its outcomes instead.

    Args:
      flow: `f4 [P]` scratch.
    """
    seats = num_players(game)
    for seat in range(seats):
        flow[seat] = values[seat]
    arrived = True
    for d in range(length, -1, -1):
        n = path[d].node if d < length else leaf
        if n < 0:
            continue
        node = nodes[n]
        node.pending -= pending
        if d < length:
            edge = edges[path[d].edge]
            edge.pending -= pending
            if arrived:
                edge.visit_count += 1
                if node.to_play >= 0:
                    edge.value_sum += flow[node.to_play]
                elif tree.expectation != 0 and tree.overflow == 0:
                    arrived = expectation(nodes, edges, node, flow)
        if not arrived:
            continue
        if node.edge_count == 1 and node.visit_count == 0:
            for seat in range(seats):
                node.value[seat] = flow[seat]
        node.visit_count += 1
        for seat in range(seats):
            node.value_sum[seat] += flow[seat]
    return arrived


@helper
def expectation(nodes, edges, node, flow):
    """Write a chance node's expectation over the means of its outcomes; False while one is unvisited.

    The vector stays as it is where an outcome was visited and its node knows no mean.
    """
    first, end = node.edge_start, node.edge_start + node.edge_count
    for e in range(first, end):
        if edges[e].visit_count == 0:
            return False
    for e in range(first, end):
        if edges[e].child < 0 or nodes[edges[e].child].visit_count == 0:
            return True
    for seat in range(flow.shape[0]):
        flow[seat] = f32(0)
    for e in range(first, end):
        child = nodes[edges[e].child]
        for seat in range(flow.shape[0]):
            flow[seat] += edges[e].prior * (child.value_sum[seat] / f32(child.visit_count))
    return True


@helper
def owed_outcome(edges, node):
    """Return the lowest unvisited outcome of a chance node, else the one furthest behind its share."""
    first, end = node.edge_start, node.edge_start + node.edge_count
    total = 1
    for e in range(first, end):
        n = edges[e].visit_count + edges[e].pending
        if n == 0:
            return e
        total += n
    best, most = first, -1.0e300
    for e in range(first, end):
        behind = np.float64(edges[e].prior) * total - (edges[e].visit_count + edges[e].pending)
        if behind > most:
            best, most = e, behind
    return best


@helper
def select_edge(game, rule, interior, seed, tree, nodes, edges, root, numbers, n, depth):
    """Return the edge to follow from a ready, unfinished node."""
    node = nodes[n]
    if node.to_play == CHANCE:
        if tree.expectation != 0 and tree.overflow == 0:
            return owed_outcome(edges, node)
        # The node's edges hold the probabilities; the same draw rule as for states that are not stored.
        u = draws.uniform(seed, draws.SEARCH_CHANCE, tree.game, tree.ply, 1024 * tree.begun + depth % 1024)
        running = 0.0
        for e in range(node.edge_start, node.edge_start + node.edge_count - 1):
            running += np.float64(edges[e].prior)
            if running > u:
                return e
        return node.edge_start + node.edge_count - 1
    if node.edge_count == 1:
        return node.edge_start
    if n == 0:
        if rule == GUMBEL:
            return gumbel.root_action(tree, node, nodes, edges, root, numbers)
        return puct.root_action(tree, node, edges, root, numbers)
    if interior == GUMBEL:
        return gumbel.interior_action(node, nodes, edges, numbers.c_visit, numbers.c_scale)
    return puct.interior_action(node, edges, numbers.c_puct, numbers.c_puct_base, numbers.fpu_reduction)


@helper
def walk(game, rule, interior, seed, tree, nodes, edges, states, root, numbers, path, legal, chance):
    """Follow one simulation down; return (leaf or -1: not stored, slot, path length, legal actions or -1).

    The slot holds the leaf's node and state; for a leaf that is not stored it is the scratch slot.
    """
    # Typed as variables: Numba would compile what is called with a literal apart.
    n, length, count = np.int64(0), np.int64(0), np.int64(-1)  # -1: no new node yet, `legal` is not filled
    while True:
        node = nodes[n]
        if node.to_play == TERMINAL or node.status != READY:
            return n, n, length, count
        e = select_edge(game, rule, interior, seed, tree, nodes, edges, root, numbers, n, length)
        path[length].node = n
        path[length].edge = e
        length += 1
        child = np.int64(edges[e].child)
        if child < 0:
            child = np.int64(tree.nodes)
            states[child] = states[n]
            apply_action(game, states[child], edges[e].action)
            count = make_node(game, tree, nodes, edges, states, child, legal, chance)
            if tree.nodes == child:
                count = play_on(game, seed, tree, nodes, edges, states, child, length, count, legal, chance)
                return -1, child, length, count
            edges[e].child = child
        n = child


@helper
def play_on(game, seed, tree, nodes, edges, states, c, depth, count, legal, chance):
    """Go on from a state that is not stored until it ends or offers a choice; return its legal actions."""
    while True:
        p = nodes[c].to_play
        if p == TERMINAL or (p >= 0 and count > 1):
            return count
        pick = 0
        if p == CHANCE:
            pick = chance_edge(seed, tree, tree.begun, depth, chance, count)
        apply_action(game, states[c], legal[pick])
        depth += 1
        nodes_before, edges_before = tree.nodes, tree.edges
        count = make_node(game, tree, nodes, edges, states, c, legal, chance)
        tree.nodes, tree.edges = nodes_before, edges_before


@helper
def simulate(game, rule, interior, seed, b, t, numbers, cache, words, values, row):
    """Begin one simulation of tree b, with row for its leaf; return what became of it."""
    tree, nodes, edges, states = t.trees[b], t.nodes[b], t.edges[b], t.states[b]
    path, legal = t.paths[row], t.leaf_legal[row]
    number = numbers[min(tree.ply, numbers.shape[0] - 1)]
    root_evaluation = nodes[0].status != READY
    n, slot, length, count = walk(
        game,
        rule,
        interior,
        seed,
        tree,
        nodes,
        edges,
        states,
        t.root[b],
        number,
        path,
        legal,
        t.chance,
    )
    leaf = nodes[slot]
    if leaf.status == WAITING:
        return COLLISION
    if n < 0:
        tree.overflow += 1
        t.counters[OVERFLOWS] += 1
    if leaf.to_play == TERMINAL:
        end = outcome(game, states[slot])
        for seat in range(num_players(game)):
            values[seat] = outcome_value(game, end, seat)
        t.counters[TERMINALS] += 1
    else:
        if count < 0:
            count = legal_actions(game, states[slot], legal)
        hit = False
        if cache.enabled[0] != 0:
            key_a, key_b = state_key(words[b, slot])
            entry = int((key_a >> np.uint64(20)) & np.uint64(cache.keys.shape[0] - 1))
            hit = cache.keys[entry, 0] == key_a and cache.keys[entry, 1] == key_b
        if not hit:
            record = t.leaves[row]
            record.tree, record.node, record.length = b, n, length
            record.root = 1 if root_evaluation else 0
            t.leaf_states[row] = states[slot]
            t.leaf_count[row] = count
            if n >= 0:
                leaf.status = WAITING
                leaf.pending += 1
            for d in range(length):
                nodes[path[d].node].pending += 1
                edges[path[d].edge].pending += 1
            tree.waiting += 1
            if not root_evaluation:
                tree.begun += 1
            return LEAF_WAITS
        t.counters[CACHE_HITS] += 1
        if n >= 0:
            expand(leaf, edges, cache.logits[entry])
            leaf.status = READY
            for seat in range(num_players(game)):
                leaf.value[seat] = cache.values[entry, seat]
        for seat in range(num_players(game)):
            values[seat] = cache.values[entry, seat]
    arrived = backup(game, tree, nodes, edges, path, length, n, values, np.int64(0), t.flow)
    if arrived and not root_evaluation:
        tree.begun += 1
        tree.finished += 1
        t.counters[SIMULATIONS] += 1
    return RESOLVED


@kernel
def descend(game, rule, interior, seed, t, numbers, cache, words, values, leaves, ids, row):
    """Let each active tree of `ids` simulate until `leaves` of its leaves wait or its budget is begun.

    Args:
      t: Trees. numbers: NUMBERS [plies]. words: `u8 [B, N, W]`, the trees' states as words.
      values: `f4 [P]` scratch. row: first free leaf row.

    Returns:
      The next free leaf row: rows before it wait for an evaluation.
    """
    row = np.int64(row)
    for i in range(ids.shape[0]):
        b = ids[i]
        tree = t.trees[b]
        while tree.active != 0 and tree.waiting < leaves:
            if t.nodes[b, 0].status == READY and tree.begun >= tree.budget:
                break
            what = simulate(game, rule, interior, seed, b, t, numbers, cache, words, values, row)
            if what == COLLISION:
                break
            if what == LEAF_WAITS:
                row += 1
    return row


@kernel
def absorb(game, t, cache, words, logits, values, rows):
    """Back up the evaluations of leaf rows 0..rows-1, in order, and remember them in the cache.

    Args:
      logits: `f4 [>= rows, L]`, one per legal action in the order of `leaf_legal`.
      values: `f4 [>= rows, P]`, absolute seats.
    """
    for row in range(rows):
        leaf = t.leaves[row]
        b = leaf.tree
        tree, nodes, edges = t.trees[b], t.nodes[b], t.edges[b]
        value = values[row]
        if leaf.node >= 0:
            node = nodes[leaf.node]
            expand(node, edges, logits[row])
            node.status = READY
            for seat in range(num_players(game)):
                node.value[seat] = value[seat]
        if cache.enabled[0] != 0:
            key_a, key_b = state_key(words[row])
            entry = int((key_a >> np.uint64(20)) & np.uint64(cache.keys.shape[0] - 1))
            cache.keys[entry, 0] = key_a
            cache.keys[entry, 1] = key_b
            for i in range(t.leaf_count[row]):
                cache.logits[entry, i] = logits[row, i]
            for seat in range(num_players(game)):
                cache.values[entry, seat] = value[seat]
        arrived = backup(
            game,
            tree,
            nodes,
            edges,
            t.paths[row],
            np.int64(leaf.length),
            np.int64(leaf.node),
            value,
            np.int64(1),
            t.flow,
        )
        tree.waiting -= 1
        if not arrived:
            tree.begun -= 1  # the simulation goes on with the chance node's next outcome
        elif leaf.root == 0:
            tree.finished += 1
            t.counters[SIMULATIONS] += 1


@helper
def plant_tree(game, tree, nodes, edges, states, legal, chance, key, ply):
    """Make the state in slot 0 a bare root."""
    tree.game = key
    tree.ply = ply
    tree.nodes = 0
    tree.edges = 0
    tree.overflow = 0
    tree.active = 0
    tree.waiting = 0
    make_node(game, tree, nodes, edges, states, np.int64(0), legal, chance)


@kernel
def tick(
    game, rule, interior, seed, t, numbers, cache, words, values, leaves, ids, leaf_words, logits, answer, n
):
    """Descend in the trees of `ids` and back up the same evaluation, `n` times over."""
    for _ in range(n):
        rows = descend(game, rule, interior, seed, t, numbers, cache, words, values, leaves, ids, 0)
        if rows == 0:
            break
        absorb(game, t, cache, leaf_words, logits, answer, rows)


@kernel
def plant(game, t, ids, states, games, plies):
    """Make each tree of `ids` a bare root with the given state and draw key; nothing is searched yet."""
    for i in range(ids.shape[0]):
        b = ids[i]
        t.states[b, 0] = states[i]
        plant_tree(
            game,
            t.trees[b],
            t.nodes[b],
            t.edges[b],
            t.states[b],
            t.legal,
            t.chance,
            games[i],
            plies[i],
        )


@helper
def begin_tree(rule, seed, tree, node, edges, root, number, budget, noise):
    """Begin a search at one root."""
    tree.budget = budget
    tree.begun = 0
    tree.finished = 0
    tree.overflow = 0
    tree.active = 1
    tree.noise = noise
    for k in range(node.edge_count):
        root[k].inherited = edges[node.edge_start + k].visit_count
        root[k].noise = f32(0)
    if noise:
        if rule == GUMBEL:
            gumbel.draw_noise(seed, tree, node, root, number)
        elif number.dirichlet_fraction > f32(0):
            puct.draw_noise(seed, tree, node, root, number)


@kernel
def begin(game, rule, seed, t, numbers, ids, budgets, noise):
    """Begin a search of `budgets[i]` new simulations at each root, with fresh noise where `noise[i]`."""
    for i in range(ids.shape[0]):
        b = ids[i]
        tree = t.trees[b]
        number = numbers[min(tree.ply, numbers.shape[0] - 1)]
        begin_tree(rule, seed, tree, t.nodes[b, 0], t.edges[b], t.root[b], number, budgets[i], noise[i])


@helper
def advance_tree(game, tree, nodes, edges, states, remap, legal, chance, action, reuse):
    """Play an action or chance outcome at the root of one tree."""
    tree.ply += 1
    tree.active = 0
    keep = np.int64(-1)
    if reuse:
        for e in range(nodes[0].edge_start, nodes[0].edge_start + nodes[0].edge_count):
            if edges[e].action == action:
                keep = np.int64(edges[e].child)
    if keep < 0:
        apply_action(game, states[0], action)
        tree.nodes = 0
        tree.edges = 0
        make_node(game, tree, nodes, edges, states, np.int64(0), legal, chance)
    else:
        keep_subtree(tree, nodes, edges, states, remap, keep)


@kernel
def advance(game, t, ids, actions, reuse):
    """Make the child of each action the root, keeping its subtree where `reuse`; `ply` grows by one."""
    for i in range(ids.shape[0]):
        b = ids[i]
        advance_tree(
            game,
            t.trees[b],
            t.nodes[b],
            t.edges[b],
            t.states[b],
            t.scratch,
            t.legal,
            t.chance,
            actions[i],
            reuse,
        )


@helper
def keep_subtree(tree, nodes, edges, states, remap, keep):
    """Move the subtree under node `keep` to the front of the pools.

    Nodes and edges keep their order, so every record moves forward and none is overwritten early.
    """
    for n in range(keep, tree.nodes):
        remap[n] = -1
    remap[keep] = 0
    n_nodes, n_edges = 0, 0
    for n in range(keep, tree.nodes):
        if remap[n] < 0:
            continue
        start = nodes[n].edge_start
        target = n_nodes
        n_nodes += 1
        remap[n] = target
        if target != n:
            nodes[target] = nodes[n]
            states[target] = states[n]
        nodes[target].edge_start = n_edges
        for e in range(start, start + nodes[target].edge_count):
            if n_edges != e:
                edges[n_edges] = edges[e]
            if edges[n_edges].child >= 0:
                remap[edges[n_edges].child] = 0  # kept: its place is given when its turn comes
            n_edges += 1
    for e in range(n_edges):
        if edges[e].child >= 0:
            edges[e].child = remap[edges[e].child]
    tree.nodes = n_nodes
    tree.edges = n_edges


@helper
def tree_result(game, rule, seed, tree, nodes, edges, root, number, temperature, target, values):
    """Write one finished search's policy target (per root edge) and root value; return the edge to play."""
    node = nodes[0]
    if rule == GUMBEL:
        gumbel.policy_target(node, nodes, edges, root, number, target)
        for seat in range(num_players(game)):
            values[seat] = gumbel.root_value(node, nodes, edges, target, seat)
        return gumbel.final_action(node, nodes, edges, root, number)
    total = puct.pruned_visits(tree, node, edges, root, number, target)
    pick = puct.temperature_action(seed, tree, target, node.edge_count, temperature)
    for k in range(node.edge_count):
        target[k] = target[k] / total
    for seat in range(num_players(game)):
        values[seat] = f32(node.value_sum[seat]) / f32(node.visit_count)
    return node.edge_start + pick


@kernel
def results(game, rule, seed, t, numbers, ids, temperatures, actions, targets, root_values):
    """Say what each finished search learnt: action id, policy target per root edge, value per seat.

    Args:
      temperatures: `f8 [n]`, for the PUCT rule's action. actions: `i4 [n]` out.
      targets: `f4 [n, L]` out, in edge order. root_values: `f4 [n, P]` out.
    """
    for i in range(ids.shape[0]):
        b = ids[i]
        tree, edges = t.trees[b], t.edges[b]
        number = numbers[min(tree.ply, numbers.shape[0] - 1)]
        best = tree_result(
            game,
            rule,
            seed,
            tree,
            t.nodes[b],
            edges,
            t.root[b],
            number,
            temperatures[i],
            targets[i],
            root_values[i],
        )
        actions[i] = edges[best].action


@kernel
def finished(t, out):
    """Write the trees whose search is finished to `out` (`i4 [B]`) and return how many."""
    k = 0
    for b in range(t.trees.shape[0]):
        tree = t.trees[b]
        if tree.active != 0 and tree.waiting == 0 and tree.finished >= tree.budget:
            if t.nodes[b, 0].status == READY:
                out[k] = b
                k += 1
    return k
