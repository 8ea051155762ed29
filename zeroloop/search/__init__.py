"""Search: trees only. Knows games and an evaluator's protocol, never networks."""

from .forest import Evaluation, Evaluator, Forest, Leaves, SearchResult, make_numbers

__all__ = ["Evaluation", "Evaluator", "Forest", "Leaves", "SearchResult", "make_numbers"]
