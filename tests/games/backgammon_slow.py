"""The rules of backgammon in plain Python, slow and obvious: the oracle of `zeroloop.games.backgammon`.

Written from the rules of the game and the description of GNU Backgammon's Position ID; it shares
nothing with the compiled game. A `Board` is seen by the player on roll: `mine[p]` and `theirs[p]` are
checkers on each owner's own point p = 1..24 (their point p is my point 25 - p), 25 is the bar and 0
the checkers borne off.
"""

from __future__ import annotations

import base64
import random
from functools import lru_cache
from typing import NamedTuple

OFF, BAR = 0, 25
CHECKERS = 15
SLOTS = [*range(1, 25), BAR]


class Board(NamedTuple):
    """Both sides' checkers, `int [26]` each, as the player on roll sees them."""

    mine: tuple[int, ...]
    theirs: tuple[int, ...]


def side(points):
    """Return the 26 counts of {point: checkers}; those not named are borne off."""
    counts = [0] * 26
    for point, checkers in points.items():
        counts[point] = checkers
    counts[OFF] += CHECKERS - sum(counts)
    return tuple(counts)


START = Board(side({24: 2, 13: 5, 8: 3, 6: 5}), side({24: 2, 13: 5, 8: 3, 6: 5}))


def turned(board):
    """Return the board as the other player sees it."""
    return Board(board.theirs, board.mine)


def is_possible(board):
    """True where both have 15 checkers and no point holds checkers of both."""
    whole = all(sum(one) == CHECKERS and min(one) >= 0 for one in board)
    return whole and not any(board.mine[p] and board.theirs[25 - p] for p in range(1, 25))


# Movements and turns.


def movements(board, die):
    """Return {(source, target): board after} of every legal movement of one checker by the die."""
    found = {}
    sources = [BAR] if board.mine[BAR] else [p for p in range(1, 25) if board.mine[p]]
    for source in sources:
        target = source - die
        if target >= 1:
            if board.theirs[25 - target] >= 2:
                continue
        else:
            if any(board.mine[p] for p in SLOTS if p > 6):
                continue
            if target < 0 and any(board.mine[p] for p in range(source + 1, 7)):
                continue
            target = OFF
        found[source, target] = moved(board, source, target)
    return found


def moved(board, source, target):
    """Return the board after one checker's movement; a lone enemy checker there goes to the bar."""
    mine, theirs = list(board.mine), list(board.theirs)
    mine[source] -= 1
    mine[target] += 1
    if target != OFF and theirs[25 - target]:
        theirs[25 - target] -= 1
        theirs[BAR] += 1
    return Board(tuple(mine), tuple(theirs))


def dice_of(roll):
    """Return the numbers to play of a roll, larger first: (3, 1), or (2, 2, 2, 2)."""
    high, low = sorted(roll, reverse=True)
    return (high,) * 4 if high == low else (high, low)


def without(dice, die):
    """Return the dice that remain when one is played."""
    at = dice.index(die)
    return dice[:at] + dice[at + 1 :]


@lru_cache(maxsize=20_000)
def endings(board, dice):
    """Return every (numbers played, board) at which some order of movements comes to a stop."""
    found = set()
    for die in set(dice):
        for after in movements(board, die).values():
            for played, end in endings(after, without(dice, die)):
                found.add((tuple(sorted((*played, die))), end))
    return frozenset(found or {((), board)})


def required(board, dice):
    """Return the sets of numbers that the player must play.

    As many numbers as possible; where either of two can be played but not both, the larger.
    """
    ways = {played for played, _ in endings(board, dice)}
    most = max(len(played) for played in ways)
    ways = {played for played in ways if len(played) == most}
    return {max(ways)} if most == 1 else ways


def results(board, dice):
    """Return the set of boards after the rest of the turn, seen by the same player."""
    must = required(board, dice)
    return {end for played, end in endings(board, dice) if played in must}


def first_movements(board, dice):
    """Return {(die, source, target): board after} of the movements that begin a legal rest of the turn."""
    must, found = required(board, dice), {}
    for die in set(dice):
        for (source, target), after in movements(board, die).items():
            rests = endings(after, without(dice, die))
            if any(tuple(sorted((*played, die))) in must for played, _ in rests):
                found[die, source, target] = after
    return found


def name(source, target):
    """Return a movement's name: '24/18', 'bar/20', '6/off'."""
    return f"{'bar' if source == BAR else source}/{'off' if target == OFF else target}"


def points_won(board):
    """Return what the player who has just moved wins: 0 while the game goes on, then 1, 2 or 3."""
    if board.mine[OFF] < CHECKERS:
        return 0
    if board.theirs[OFF]:
        return 1
    # The winner's home is the loser's 19 to 24 points.
    return 3 if board.theirs[BAR] or any(board.theirs[19:25]) else 2


# GNU Backgammon's Position ID: a string of 80 bits, lowest bit of each byte first, in base 64
# without the padding. For the player not on roll, then the one on roll, each by his own count: for
# every point from 1 to 24 and then the bar, as many ones as checkers stand there and a zero.


def position_id(board):
    """Return the Position ID of the board, 14 characters."""
    bits = "".join("1" * one[slot] + "0" for one in (board.theirs, board.mine) for slot in SLOTS)
    bits = bits.ljust(80, "0")
    raw = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, 80, 8))
    return base64.b64encode(raw).decode().rstrip("=")


def from_position_id(text):
    """Return the board of a Position ID; ValueError where it is none."""
    raw = base64.b64decode(text + "==", validate=True)
    if len(text) != 14 or len(raw) != 10:
        raise ValueError(f"'{text}' is not a Position ID: 14 characters stand for 10 bytes.")
    bits = "".join(f"{byte:08b}"[::-1] for byte in raw)
    runs = bits.split("0")
    if "1" in "".join(runs[50:]):
        raise ValueError(f"'{text}' is not a Position ID: ones after the fiftieth slot.")
    counts = [[len(run) for run in runs[at : at + 25]] for at in (0, 25)]
    theirs, mine = (side(dict(zip(SLOTS, one, strict=True))) for one in counts)
    board = Board(mine, theirs)
    if not is_possible(board):
        raise ValueError(f"'{text}' is not a Position ID: {board} cannot stand on a board.")
    return board


# Random positions.


def games(rng, count):
    """Yield (board, roll) of each turn of random games, seen by the player on roll."""
    for _ in range(count):
        board, roll = START, rng.sample(range(1, 7), 2)
        while True:
            yield board, tuple(roll)
            board = rng.choice(sorted(results(board, dice_of(roll))))
            if points_won(board):
                break
            board, roll = turned(board), [rng.randint(1, 6), rng.randint(1, 6)]


def scattered(rng, slots, checkers, taken=()):
    """Return 26 counts with the checkers thrown on the slots not taken, in heaps; the rest is off."""
    free = [p for p in slots if p not in taken]
    heaps = rng.sample(free, rng.randint(1, min(len(free), checkers)))
    counts = {p: 1 for p in heaps}
    for _ in range(checkers - len(heaps)):
        counts[rng.choice(heaps)] += 1
    return side(counts)


def opposite(counts):
    """Return the points that the other side's checkers keep from one's own."""
    return {25 - p for p in range(1, 25) if counts[p]}


def synthetic(rng, kind):
    """Return a random board of a kind that random games seldom reach; see KINDS."""
    if kind == "anywhere":
        mine = scattered(rng, SLOTS, rng.randint(1, 15))
        theirs = scattered(rng, SLOTS, rng.randint(1, 15), opposite(mine))
    elif kind == "crowded bar":
        bar = rng.randint(1, 12)
        theirs = scattered(rng, SLOTS, 15)
        rest = scattered(rng, range(1, 25), 15 - bar, opposite(theirs))
        mine = side({**{p: rest[p] for p in range(1, 25)}, BAR: bar})
    elif kind == "prime":
        length, low = rng.choice([4, 5, 6]), rng.randint(1, 15)
        wall = {p: 2 for p in range(low, low + length)}
        rest = scattered(rng, SLOTS, 15 - 2 * length)
        theirs = side({p: wall.get(p, 0) + rest[p] for p in SLOTS})
        mine = scattered(rng, [*range(10, 25), BAR], 15, opposite(theirs))
    elif kind == "bear-off":
        mine = scattered(rng, range(1, 7), rng.randint(1, 15))
        theirs = scattered(rng, range(1, 7), rng.randint(1, 15))
    elif kind == "contact bear-off":
        mine = scattered(rng, range(1, 9), rng.randint(2, 15))
        theirs = scattered(rng, [*range(17, 25), BAR], rng.randint(1, 4), opposite(mine))
        home = {p: 2 for p in rng.sample(range(1, 7), 3)}
        theirs = side({**{p: theirs[p] for p in SLOTS if theirs[p]}, **home})
    elif kind == "walled in":
        # One or two checkers behind five walls, the rest too deep to move or bear off.
        walls = {p: 2 for p in rng.sample(range(1, 23), 5)}
        theirs = scattered(rng, SLOTS, 5)
        theirs = side({p: walls.get(p, 0) + theirs[p] for p in SLOTS})
        back = scattered(rng, [*range(7, 25), BAR], rng.randint(1, 2), opposite(theirs))
        low = [p for p in (1, 2, 3) if p not in opposite(theirs)]
        rest = scattered(rng, low, 13) if low else side({})
        mine = side({p: back[p] + rest[p] for p in SLOTS})
    else:
        assert kind == "last checkers"
        mine = scattered(rng, range(1, 8), rng.randint(1, 3))
        # None borne off makes a gammon, of which none beyond the 18 point is no backgammon.
        slots = rng.choice([SLOTS, range(1, 19)])
        theirs = scattered(rng, slots, rng.choice([1, 14, 15, 15]), opposite(mine))
    board = Board(mine, theirs)
    assert is_possible(board), (kind, board)
    return board


KINDS = ("anywhere", "crowded bar", "prime", "bear-off", "contact bear-off", "last checkers", "walled in")


def is_restricted(board, dice):
    """True where the rule on which numbers must be played forbids an end of the turn."""
    return len(results(board, dice)) < len({end for _, end in endings(board, dice)})


def restricted(rng):
    """Return (board, roll): an order of movements is no legal turn, or a double is cut short."""
    double = rng.random() < 0.3
    while True:
        board, roll = synthetic(rng, "walled in"), tuple(rng.sample(range(1, 7), 2))
        dice = (roll[0],) * 4 if double else dice_of(roll)
        if double and 0 < max(map(len, required(board, dice))) < 4:
            return board, roll[:1] * 2
        if not double and is_restricted(board, dice):
            return board, roll


def sample(seed, count):
    """Return `count` (board, roll): half from random games, half made.

    Of the made ones an eighth is restricted; the others are of every kind with every roll in turn.
    """
    rng = random.Random(seed)
    rolls = [(a, b) for a in range(1, 7) for b in range(1, 7)]
    played = []
    while len(played) < count - count // 2:
        # A game gives about 100 turns; some of each keep the games many.
        turns = list(games(rng, 1))
        played += rng.sample(turns, min(20, len(turns)))
    made = []
    for i in range(count // 2):
        if i % 8 == 7:
            made.append(restricted(rng))
        else:
            made.append((synthetic(rng, KINDS[i % len(KINDS)]), rolls[i // len(KINDS) % 36]))
    return played[: count - count // 2] + made
