"""The AlphaZero rule: PUCT selection, root noise, forced playouts, pruned policy target (docs/search.md)."""

from __future__ import annotations

import math

import numpy as np

from .. import draws
from ..compiled import helper

f32 = np.float32
LOWEST = np.float32(-3.0e38)


@helper
def exploration(n, c_puct, c_puct_base):
    """Return c * sqrt(N) for a node of N visits, float32."""
    c = c_puct
    if c_puct_base > f32(0):
        base = np.float64(c_puct_base)
        c = c_puct + f32(math.log((1.0 + n + base) / base))
    return c * f32(math.sqrt(f32(n)))


@helper
def interior_action(node, edges, c_puct, c_puct_base, fpu_reduction):
    """Return the index of the edge with the highest PUCT score, the lowest index among equals."""
    seat, start = node.to_play, node.edge_start
    k = exploration(node.visit_count + node.pending, c_puct, c_puct_base)
    first_play = f32(node.value_sum[seat]) / f32(node.visit_count) - fpu_reduction
    best, best_score = start, LOWEST
    for e in range(start, start + node.edge_count):
        edge = edges[e]
        n = edge.visit_count
        q = edge.value_sum / f32(n) if n > 0 else first_play
        score = q + (k * edge.prior) / f32(1 + n + edge.pending)
        if score > best_score:
            best, best_score = e, score
    return best


@helper
def noisy_prior(tree, edge, root_edge, fraction):
    """Return the prior of a root edge, mixed with Dirichlet noise where the search has noise."""
    if tree.noise == 0:
        return edge.prior
    return (f32(1) - fraction) * edge.prior + fraction * root_edge.noise


@helper
def needed_visits(numbers, prior, total):
    """Return the forced playouts of a root edge, float64: sqrt(F * prior' * M)."""
    return math.sqrt(np.float64(numbers.forced_playouts) * np.float64(prior) * total)


@helper
def root_visits(node, edges):
    """Return M: finished and pending visits over the root's edges."""
    total = 0
    for e in range(node.edge_start, node.edge_start + node.edge_count):
        total += edges[e].visit_count + edges[e].pending
    return total


@helper
def root_action(tree, node, edges, root, numbers):
    """Return the root edge to descend: a forced playout if one is owed, else the best score."""
    seat, start = node.to_play, node.edge_start
    forced = tree.noise != 0 and numbers.forced_playouts > f32(0)
    if forced:
        total = root_visits(node, edges)
        for i in range(node.edge_count):
            edge = edges[start + i]
            n = edge.visit_count + edge.pending
            prior = noisy_prior(tree, edge, root[i], numbers.dirichlet_fraction)
            if n > 0 and n < needed_visits(numbers, prior, total):
                return start + i
    k = exploration(node.visit_count + node.pending, numbers.c_puct, numbers.c_puct_base)
    first_play = f32(node.value_sum[seat]) / f32(node.visit_count) - numbers.root_fpu_reduction
    best, best_score = start, LOWEST
    for i in range(node.edge_count):
        edge = edges[start + i]
        n = edge.visit_count
        q = edge.value_sum / f32(n) if n > 0 else first_play
        prior = noisy_prior(tree, edge, root[i], numbers.dirichlet_fraction)
        score = q + (k * prior) / f32(1 + n + edge.pending)
        if score > best_score:
            best, best_score = start + i, score
    return best


@helper
def draw_noise(seed, tree, node, root, numbers):
    """Fill the root's Dirichlet noise, alpha = dirichlet_total / number of edges."""
    count = node.edge_count
    alpha = np.float64(numbers.dirichlet_total) / max(count, 1)
    total = 0.0
    for i in range(count):
        total += draws.gamma(seed, draws.ROOT_NOISE, tree.game, tree.ply, i, alpha)
    for i in range(count):
        g = draws.gamma(seed, draws.ROOT_NOISE, tree.game, tree.ply, i, alpha)
        root[i].noise = f32(g / total)


@helper
def pruned_visits(tree, node, edges, root, numbers, out):
    """Write the visits that count, float32 [edge_count], after policy-target pruning; return their sum."""
    start, count = node.edge_start, node.edge_count
    best = 0
    for i in range(count):
        out[i] = f32(edges[start + i].visit_count)
        if edges[start + i].visit_count > edges[start + best].visit_count:
            best = i
    if tree.noise != 0 and numbers.forced_playouts > f32(0) and edges[start + best].visit_count > 0:
        total = root_visits(node, edges)
        k = exploration(node.visit_count, numbers.c_puct, numbers.c_puct_base)
        edge = edges[start + best]
        prior = noisy_prior(tree, edge, root[best], numbers.dirichlet_fraction)
        n = edge.visit_count
        bar = edge.value_sum / f32(n) + (k * prior) / f32(1 + n)
        for i in range(count):
            edge = edges[start + i]
            if i == best or edge.visit_count == 0:
                continue
            prior = noisy_prior(tree, edge, root[i], numbers.dirichlet_fraction)
            q = edge.value_sum / f32(edge.visit_count)
            m, spare = edge.visit_count, int(needed_visits(numbers, prior, total))
            while m > 0 and spare > 0 and q + (k * prior) / f32(m) < bar:  # 1 + (m - 1) = m
                m -= 1
                spare -= 1
            out[i] = f32(m) if m > 1 else f32(0)
    total_left = f32(0)
    for i in range(count):
        total_left += out[i]
    if total_left == f32(0):  # a search of no simulations knows only the prior
        for i in range(count):
            out[i] = edges[start + i].prior
            total_left += out[i]
    return total_left


@helper
def temperature_action(seed, tree, weights, count, temperature):
    """Return the index drawn with weights^(1/T); the largest weight for T < 0.01."""
    best = 0
    for i in range(count):
        if weights[i] > weights[best]:
            best = i
    if temperature < 0.01:
        return best
    top, power = np.float64(weights[best]), 1.0 / temperature
    total = 0.0
    for i in range(count):
        total += (weights[i] / top) ** power
    u = draws.uniform(seed, draws.ACTION, tree.game, tree.ply, 0) * total
    running = 0.0
    for i in range(count):
        running += (weights[i] / top) ** power
        if running > u:
            return i
    return best
