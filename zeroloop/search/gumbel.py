"""The Gumbel rule: top-k without replacement, sequential halving, completed-Q targets (docs/search.md).

Source: Danihelka et al. 2022, "Policy improvement by planning with Gumbel".
"""

from __future__ import annotations

import math

import numpy as np

from .. import draws
from ..compiled import helper

f32 = np.float32
LOWEST = np.float32(-3.0e38)


@helper
def considered_visits(t, budget, candidates):
    """Return how many visits of this search the edges have that simulation t chooses among."""
    if candidates <= 1:
        return t
    phases = 0
    while (1 << phases) < candidates:
        phases += 1
    width, base, start = candidates, 0, 0
    while True:
        rounds = max(1, budget // (phases * width))
        if t < start + rounds * width:
            return base + (t - start) // width
        start += rounds * width
        base += rounds
        width = max(2, width // 2)


@helper
def mixed_value(node, nodes, edges, seat):
    """Return v_mix of the seat: the network's value mixed with the visited edges' means (appendix D)."""
    mover = node.to_play
    visits, weight, total = 0, f32(0), f32(0)
    for e in range(node.edge_start, node.edge_start + node.edge_count):
        edge = edges[e]
        if not has_mean(edge, nodes, seat, mover):
            continue
        visits += edge.visit_count
        weight += edge.prior
        total += edge.prior * edge_mean(edge, nodes, seat, mover)
    value = f32(node.value[seat])
    if visits == 0 or weight <= f32(0):
        return value
    return (value + (f32(visits) / weight) * total) / f32(1 + visits)


@helper
def has_mean(edge, nodes, seat, mover):
    """Return whether the edge is visited and, for a seat other than the mover's, its child knows a mean."""
    if edge.visit_count == 0:
        return False
    return seat == mover or (edge.child >= 0 and nodes[edge.child].visit_count > 0)


@helper
def edge_mean(edge, nodes, seat, mover):
    """Return the mean value of a visited edge for the seat."""
    if seat == mover:
        return edge.value_sum / f32(edge.visit_count)
    child = nodes[edge.child]
    return f32(child.value_sum[seat]) / f32(child.visit_count)


@helper
def sigma(q, most_visits, c_visit, c_scale):
    """Return the paper's monotone transform of a Q in [-1, 1]."""
    return ((c_visit + f32(most_visits)) * c_scale) * ((q + f32(1)) * f32(0.5))


@helper
def search_visits(edge, root_edge):
    """Return the visits of this search, pending ones included."""
    return edge.visit_count + edge.pending - root_edge.inherited


@helper
def best_considered(node, nodes, edges, root, numbers, visits):
    """Return the edge with `visits` visits of this search and the highest g + logit + sigma(cq)."""
    seat, start = node.to_play, node.edge_start
    mixed = mixed_value(node, nodes, edges, seat)
    most, nearest = 0, 0
    for i in range(node.edge_count):
        n = search_visits(edges[start + i], root[i])
        most = max(most, n)
        if n <= visits:
            nearest = max(nearest, n)
    best, best_score = start, LOWEST
    for i in range(node.edge_count):
        edge = edges[start + i]
        if search_visits(edge, root[i]) != nearest:
            continue
        q = edge.value_sum / f32(edge.visit_count) if edge.visit_count > 0 else mixed
        score = (root[i].noise + edge.logit) + sigma(q, most, numbers.c_visit, numbers.c_scale)
        if score > best_score:
            best, best_score = start + i, score
    return best


@helper
def root_action(tree, node, nodes, edges, root, numbers):
    """Return the root edge that sequential halving visits next."""
    candidates = min(numbers.gumbel_actions, node.edge_count)
    visits = considered_visits(tree.begun, tree.budget, candidates)
    return best_considered(node, nodes, edges, root, numbers, visits)


@helper
def final_action(node, nodes, edges, root, numbers):
    """Return the edge to play: the best among the most visited of this search."""
    most = 0
    for i in range(node.edge_count):
        most = max(most, search_visits(edges[node.edge_start + i], root[i]))
    return best_considered(node, nodes, edges, root, numbers, most)


@helper
def improved_logit(edge, mixed, most, c_visit, c_scale):
    """Return logit + sigma(completed Q) of an edge."""
    q = edge.value_sum / f32(edge.visit_count) if edge.visit_count > 0 else mixed
    return edge.logit + sigma(q, most, c_visit, c_scale)


@helper
def interior_action(node, nodes, edges, c_visit, c_scale):
    """Return the edge where the improved policy exceeds its share of visits most (equation 14)."""
    start, seat = node.edge_start, node.to_play
    mixed = mixed_value(node, nodes, edges, seat)
    most, total = 0, 0
    for e in range(start, start + node.edge_count):
        n = edges[e].visit_count + edges[e].pending
        most, total = max(most, n), total + n
    highest = LOWEST
    for e in range(start, start + node.edge_count):
        highest = max(highest, improved_logit(edges[e], mixed, most, c_visit, c_scale))
    mass = f32(0)
    for e in range(start, start + node.edge_count):
        x = improved_logit(edges[e], mixed, most, c_visit, c_scale)
        mass += f32(math.exp(np.float64(x - highest)))
    best, best_score = start, LOWEST
    for e in range(start, start + node.edge_count):
        x = improved_logit(edges[e], mixed, most, c_visit, c_scale)
        pi = f32(math.exp(np.float64(x - highest))) / mass
        score = pi - f32(edges[e].visit_count + edges[e].pending) / f32(1 + total)
        if score > best_score:
            best, best_score = e, score
    return best


@helper
def draw_noise(seed, tree, node, root, numbers):
    """Fill the root's Gumbel noise, scaled."""
    for i in range(node.edge_count):
        g = draws.gumbel(seed, draws.ROOT_NOISE, tree.game, tree.ply, i)
        root[i].noise = f32(np.float64(numbers.gumbel_scale) * g)


@helper
def policy_target(node, nodes, edges, root, numbers, out):
    """Write softmax(logit + sigma(cq)) over the root's edges, float32 [edge_count]."""
    start = node.edge_start
    mixed = mixed_value(node, nodes, edges, node.to_play)
    most = 0
    for i in range(node.edge_count):
        most = max(most, search_visits(edges[start + i], root[i]))
    highest = LOWEST
    for i in range(node.edge_count):
        out[i] = improved_logit(edges[start + i], mixed, most, numbers.c_visit, numbers.c_scale)
        highest = max(highest, out[i])
    mass = f32(0)
    for i in range(node.edge_count):
        out[i] = f32(math.exp(np.float64(out[i] - highest)))
        mass += out[i]
    for i in range(node.edge_count):
        out[i] = out[i] / mass


@helper
def root_value(node, nodes, edges, target, seat):
    """Return the improved policy's value of the root for the seat."""
    mixed = mixed_value(node, nodes, edges, seat)
    total = f32(0)
    for i in range(node.edge_count):
        edge = edges[node.edge_start + i]
        known = has_mean(edge, nodes, seat, node.to_play)
        total += target[i] * (edge_mean(edge, nodes, seat, node.to_play) if known else mixed)
    return total
