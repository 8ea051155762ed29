"""Backgammon without a cube (money play): dice as chance nodes, one checker movement per action."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np

from ..compiled import helper
from ..errors import IllegalAction, InvalidState
from .game import CHANCE, TERMINAL, Game, Observation

POINTS, BAR, CHECKERS = 24, 24, 15
"""Points of the board, the index of the bar among a seat's 25 places, checkers of a seat."""

PASS = 150
"""The action when dice are left and no checker can move. All others are 6 * source + die - 1."""

STATE = np.dtype(
    [
        ("occupied", "i4", (2,)),
        ("blocks", "i4", (2,)),
        ("checkers", "i1", (2, 25)),
        ("off", "i1", (2,)),
        ("seat", "i1"),
        ("die", "i1"),
        ("other", "i1"),
        ("over", "i1"),
    ]
)
"""`checkers[seat]` counts from that seat's own view: index 0..23 is its points 1..24, 24 its bar.

From them follow `off`, borne off, and two sets of bits that answer most questions at once: `occupied[seat]`,
places with a checker, from its own view, and `blocks[seat]`, points with two or more, from the opponent's.
`seat` is on roll. `die` is the larger die still to be played, 0 before the roll, -1 before the opening roll.
`other` is the smaller one, 0 for none; after doubles -n, which stands for n further movements of `die`.
`over` is 0 while the game goes on, then 1 + the row of OUTCOMES; the loser is then `seat`."""

OUTCOMES = [[1, -1], [2, -2], [3, -3], [-1, 1], [-2, 2], [-3, 3]]
"""The first seat wins a single game, a gammon, a backgammon; the second seat does."""

START = np.zeros(25, np.int8)
START[[5, 7, 12, 23]] = 5, 3, 5, 2

LATER = [(a, b) for a in range(1, 7) for b in range(1, a + 1)]
"""Rolls after the first, larger die first."""
OPENING = [(a, b) for a in range(1, 7) for b in range(1, 7) if a != b]
"""Opening rolls: the die of seat 0, the die of seat 1. Equal dice are thrown again."""
FIRST_OPENING = len(LATER)
ROLLS = np.array(LATER + OPENING, np.int8)
"""Dice of each chance outcome."""

ON_BAR = 1 << BAR
OUTSIDE = 1 << 6
"""The lowest bit outside the home board: a smaller set of places is all home."""
HIGHEST = np.array([1 << n.bit_length() >> 1 for n in range(64)], np.int64)
"""The highest bit of a number of six bits."""
BIT_INDEX = np.zeros(32, np.int64)
"""The index of a single bit b, at place b * SPREAD >> 27 modulo 32 (a de Bruijn sequence)."""
SPREAD = 0x077CB531
for _i in range(32):
    BIT_INDEX[(SPREAD << _i >> 27) & 31] = _i


def initial(state, seed):
    for seat in range(2):
        for place in range(25):
            state.checkers[seat, place] = START[place]
        state.off[seat] = 0
        recount(state, seat)
    state.seat = 0
    state.die = -1
    state.other = 0
    state.over = 0


@helper
def recount(state, seat):
    """Fill what follows from the seat's checkers on the board."""
    occupied, blocks, on_board = 0, 0, 0
    for place in range(25):
        count = int(state.checkers[seat, place])
        on_board += count
        if count > 0:
            occupied |= 1 << place
        if count > 1 and place != BAR:
            blocks |= 1 << (23 - place)
    state.occupied[seat] = occupied
    state.blocks[seat] = blocks
    state.off[seat] = CHECKERS - on_board


def to_play(state):
    if state.over != 0:
        return TERMINAL
    return CHANCE if state.die <= 0 else state.seat


def chance_outcomes(state, out, probability):
    if state.die < 0:
        for i in range(30):
            out[i] = FIRST_OPENING + i
            probability[i] = 1 / 30
        return 30
    for i in range(21):
        out[i] = i
        probability[i] = (1 if ROLLS[i, 0] == ROLLS[i, 1] else 2) / 36
    return 21


@helper
def movable(mine, blocked, die):
    """Return the places from which a checker can move by the die.

    Args:
      mine: places with a checker, from the mover's view.
      blocked: points that the opponent holds, from the mover's view.
    """
    if mine & ON_BAR:
        return ON_BAR & ~(blocked << die)
    found = mine & ~(blocked << die) & (-1 << die)
    if mine < OUTSIDE:
        # A die higher than every checker bears off from the highest point; otherwise it must be exact.
        found |= mine & (1 << (die - 1)) if mine >> die else HIGHEST[mine]
    return found


@helper
def followed(state, sources, mine, blocked, die, other):
    """Return those of the sources from which a movement by `die` leaves one by `other`."""
    found = 0
    while sources:
        bit = sources & -sources
        source = BIT_INDEX[(bit * SPREAD >> 27) & 31]
        after = mine ^ bit if state.checkers[state.seat, source] == 1 else mine
        if source >= die:
            after |= bit >> die
        # A hit opens no point that was blocked: one checker never blocks.
        if movable(after, blocked, other):
            found |= bit
        sources ^= bit
    return found


def legal_actions(state, out):
    """A movement is legal where it belongs to a play of the greatest possible length.

    With equal dice every movement does, so nothing is looked ahead. What one checker can do no other
    checker can undo: own checkers never block, a hit closes no point, and moving on brings
    checkers home and keeps them there. So if two movements can be made, either can still be made after the
    other, and all ways to go on until nothing moves are then equally long.

    For the same reason a movement by one die leaves one by the other wherever the other die can move
    from two places: at least one of them is not the place just left.
    """
    mine, blocked = int(state.occupied[state.seat]), int(state.blocks[1 - state.seat])
    die, other = int(state.die), int(state.other)
    large, small = movable(mine, blocked, die), 0
    if other > 0:
        small = movable(mine, blocked, other)
        if not (large & (large - 1) and small & (small - 1)):
            both_large = followed(state, large, mine, blocked, die, other)
            both_small = followed(state, small, mine, blocked, other, die)
            if both_large | both_small:
                large, small = both_large, both_small
            elif large:
                small = 0
    sources = large | small
    if sources == 0:
        out[0] = PASS
        return 1
    k = 0
    while sources:
        bit = sources & -sources
        action = 6 * BIT_INDEX[(bit * SPREAD >> 27) & 31] - 1
        if small & bit:
            out[k] = action + other
            k += 1
        if large & bit:
            out[k] = action + die
            k += 1
        sources ^= bit
    return k


def apply_action(state, action):
    if state.die <= 0:
        roll(state, action)
    elif action == PASS:
        end_turn(state)
    else:
        die = action % 6 + 1
        move_checker(state, action // 6, die)
        if state.off[state.seat] == CHECKERS:
            state.over = 1 + 3 * state.seat + gammon(state, 1 - state.seat)
            end_turn(state)
        elif state.other == 0:
            end_turn(state)
        elif state.other < 0:
            state.other += 1
        else:
            if die == state.die:
                state.die = state.other
            state.other = 0


@helper
def roll(state, outcome):
    """Take the dice of a chance outcome; at the opening the higher die also says who begins."""
    a, b = ROLLS[outcome, 0], ROLLS[outcome, 1]
    if outcome >= FIRST_OPENING:
        state.seat = 0 if a > b else 1
    state.die = max(a, b)
    state.other = -3 if a == b else min(a, b)


@helper
def end_turn(state):
    state.seat = 1 - state.seat
    state.die = 0
    state.other = 0


@helper
def move_checker(state, source, die):
    """Move a checker of the seat on roll, hit, bear off."""
    seat, rival = state.seat, 1 - state.seat
    mine, point = state.checkers[seat], source - die
    mine[source] -= 1
    if mine[source] == 0:
        state.occupied[seat] ^= 1 << source
    elif mine[source] == 1 and source != BAR:
        state.blocks[seat] ^= 1 << (23 - source)
    if point < 0:
        state.off[seat] += 1
        return
    mine[point] += 1
    if mine[point] == 1:
        state.occupied[seat] |= 1 << point
        if state.checkers[rival, 23 - point] == 1:
            state.checkers[rival, 23 - point] = 0
            state.checkers[rival, BAR] += 1
            state.occupied[rival] = (state.occupied[rival] ^ 1 << (23 - point)) | ON_BAR
    elif mine[point] == 2:
        state.blocks[seat] |= 1 << (23 - point)


@helper
def gammon(state, loser):
    """Return 0 for a single game, 1 for a gammon, 2 for a backgammon."""
    if state.off[loser] > 0:
        return 0
    # The winner's home board is the loser's points 19 to 24.
    return 2 if state.occupied[loser] >> 18 else 1


def outcome(state):
    return state.over - 1


FACTS = 217
"""Length of the observation; docs/backgammon.md has the table."""


def observe(state, planes, global_facts):
    """Own then the opponent's places, each from its own view; then borne off, pips, contact, dice."""
    for side in range(2):
        seat = state.seat if side == 0 else 1 - state.seat
        for place in range(25):
            count, at = state.checkers[seat, place], 100 * side + 4 * place
            global_facts[at] = count == 1
            global_facts[at + 1] = count == 2
            global_facts[at + 2] = count >= 3
            global_facts[at + 3] = (count - 3) * 0.5 if count > 3 else 0.0
        global_facts[200 + side] = state.off[seat] / CHECKERS
        global_facts[202 + side] = state.off[seat] > 0
        global_facts[204 + side] = pips(state, seat) / 167
    global_facts[206] = contact(state)
    left = movements_left(state)
    for face in range(1, 7):
        global_facts[206 + face] = left > 0 and (state.die == face or state.other == face)
    for n in range(1, 5):
        global_facts[212 + n] = left == n


@helper
def movements_left(state):
    if state.die <= 0:
        return 0
    return 2 if state.other > 0 else 1 - state.other


@helper
def pips(state, seat):
    """Return the pips that the seat needs to bear everything off; from the bar it is 25."""
    total = 0
    for place in range(25):
        total += (place + 1) * int(state.checkers[seat, place])
    return total


@helper
def contact(state):
    """Return whether some checker has yet to pass one of the opponent."""
    theirs = int(state.occupied[1])
    back = 0
    while theirs:
        theirs >>= 1
        back += 1
    # The opponent's rearmost checker, `back` points from its end, is on my point 25 - back.
    return back > 0 and int(state.occupied[0]) >> max(25 - back, 0) != 0


HIT = np.array([0, 11, 12, 14, 15, 15, 17, 6, 6, 5, 3, 2, 3], np.float64) / 36
"""Chance that a checker hits a blot so many pips away on an open board (Magriel 1976, "Backgammon")."""

HELD = np.array([0, 2, 4, 5, 8, 8, 5, 2, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 4, 5, 3, 2, -3, -4], np.float64)
"""Pips that holding each point is worth besides the race. These and the numbers below were found by
random changes that were kept where they won matches against the values before."""


@helper
def standing(state, seat):
    """Return what the seat's blots, points and checkers on the bar are worth in pips, under contact."""
    rival, worth = 1 - seat, 0.0
    closed = 0
    for point in range(6):
        closed += state.checkers[rival, point] >= 2
    # Before the turn is over a blot may still be covered.
    exposure = 1 / 3 if state.die > 0 and state.seat == seat else 1.0
    for point in range(POINTS):
        count = state.checkers[seat, point]
        if count >= 2:
            worth += HELD[point] - 2 * max(count - 3, 0)
        elif count == 1:
            shots = 0.0
            for distance in range(1, min(12, point + 1) + 1):
                # Behind my point 1 lies the opponent's bar.
                if state.checkers[rival, 23 - point + distance] > 0:
                    shots += HIT[distance]
            worth -= exposure * min(shots, 0.75) * (0.5 * (24 - point) + 3 * closed)
    return worth - state.checkers[seat, BAR] * (2 + 3 * closed)


@helper
def gammon_chance(state, winner, spread):
    """Return how likely the winner wins double, from the pips that the loser needs to bear one off."""
    loser = 1 - winner
    if state.off[loser] > 0:
        return 0.0
    need = 3
    for place in range(6, 25):
        need += (place - 5) * int(state.checkers[loser, place])
    return 1 / (1 + math.exp((pips(state, winner) - need) / spread))


def heuristic(state, seat):
    """Guess from the race, by Kleinman's metric, with pips for blots, points and the bar; then gammons."""
    rival = 1 - seat
    mine, yours = pips(state, seat), pips(state, rival)
    lead, total, spread = float(yours - mine), float(mine + yours), 6.0
    if contact(state):
        lead += standing(state, seat) - standing(state, rival)
        total += 80.0
        spread = 90.0
    # A roll is worth 8 pips, the turn itself half of it; dice on the table are as good as played.
    turn = 4.0
    if state.die > 0:
        turn = (state.die + state.other if state.other > 0 else state.die * (1 - state.other)) - 4.0
    lead += turn if state.seat == seat else -turn
    win = 0.5 + 0.5 * math.erf(lead / math.sqrt(max(total - 4.0, 4.0)))
    return (
        win * (1 + gammon_chance(state, seat, spread)) - (1 - win) * (1 + gammon_chance(state, rival, spread))
    ) / 3


def position_id(state):
    """Return GNU Backgammon's Position ID, 14 characters, for the seat on roll.

    80 bits: for the opponent and then for the seat on roll, from its own point 1 to 24 and the bar, as
    many ones as there are checkers and a zero; the first bit is the lowest of the first byte, in base64.
    """
    bits = "".join(
        "1" * n + "0" for seat in (1 - state.seat, state.seat) for n in state.checkers[seat].tolist()
    )
    key = int(bits[::-1], 2).to_bytes(10, "little")
    return base64.b64encode(key).decode()[:14]


def read_position_id(state, text):
    """Set the checkers from a Position ID; `seat` says who is on roll. InvalidState for a bad one."""
    try:
        key = base64.b64decode(text + "==", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(text) != 14 or len(key) != 10 or base64.b64encode(key).decode()[:14] != text:
        raise InvalidState(f"backgammon: Position ID '{text}' is not 14 base64 characters for 80 bits.")
    *runs, rest = f"{int.from_bytes(key, 'little'):080b}"[::-1].split("0", 50)
    counts = [len(run) for run in runs]
    sides = counts[:25], counts[25:]
    if len(counts) < 50 or "1" in rest or max(map(sum, sides)) > CHECKERS:
        raise InvalidState(f"backgammon: Position ID '{text}' gives a side more than 15 checkers.")
    for point in range(24):
        if sides[1][point] and sides[0][23 - point]:
            raise InvalidState(f"backgammon: Position ID '{text}' has both sides on point {point + 1}.")
    for seat, side in ((1 - state.seat, sides[0]), (state.seat, sides[1])):
        state.checkers[seat] = side
        recount(state, seat)


def dice_text(state):
    """Return the dice still to be played: `31`, `1`, `2222`; `-` before the roll, `start` at the opening."""
    if state.die <= 0:
        return "start" if state.die < 0 else "-"
    return f"{state.die}{state.other}" if state.other > 0 else str(state.die) * (1 - state.other)


def position(state):
    """Position ID, seat on roll, dice still to be played: `4HPwATDgc/ABMA 0 31`."""
    return f"{position_id(state)} {state.seat} {dice_text(state)}"


def parse_position(state, text):
    fields = text.split()
    if len(fields) == 1:
        fields += ["0", "-"]  # a bare Position ID: seat 0 on roll
    if len(fields) != 3:
        raise InvalidState(
            f"backgammon: '{text}' is not like '4HPwATDgc/ABMA 0 31': Position ID, seat, dice."
        )
    name, seat, dice = fields
    if seat not in ("0", "1"):
        raise InvalidState(f"backgammon: seat '{seat}' of '{text}' is not 0 or 1.")
    if dice == "start":
        if (name, seat) != (position_id(state), "0"):
            raise InvalidState(f"backgammon: '{text}' is not the opening, '{position(state)}'.")
        return
    state.seat = int(seat)
    read_position_id(state, name)
    read_dice(state, dice)
    winners = [s for s in (0, 1) if state.off[s] == CHECKERS]
    if len(winners) == 2 or state.seat in winners or (winners and state.die > 0):
        raise InvalidState(
            f"backgammon: the game of '{text}' is already over; then the loser is on roll with '-'."
        )
    if winners:
        state.over = 1 + 3 * winners[0] + gammon(state, state.seat)
    elif all(state.checkers[s, BAR] and (state.checkers[s, :6] > 1).all() for s in (0, 1)):
        raise InvalidState(
            f"backgammon: in '{text}' both sides are on the bar against closed boards, for ever."
        )


def read_dice(state, text):
    """Set the dice still to be played; InvalidState for dice that cannot be."""
    faces = [int(c) for c in text if c in "123456"]
    equal = len(set(faces)) == 1
    fits = len(faces) == len(text) and (
        (equal and len(faces) <= 4) or (len(faces) == 2 and faces[0] > faces[1])
    )
    if not fits and text != "-":
        raise InvalidState(
            f"backgammon: dice '{text}' are not '-' (before the roll), two different dice, larger first "
            "('31'), one die ('1') or two to four equal ones ('2222')."
        )
    state.die = faces[0] if faces else 0
    state.other = 0 if len(faces) < 2 else 1 - len(faces) if equal else faces[1]


def with_dice(state, text):
    """Return a copy of the state, a chance node, after this roll: `31`, at the opening seat 0's die first.

    Raises:
      InvalidState: the seat has already rolled, the game is over, or there is no such roll.
    """
    after = GAME.copy(state)
    if to_play(state) != CHANCE:
        raise InvalidState(
            f"backgammon: '{position(state)}' is not before a roll; dice '{text}' cannot be set."
        )
    try:
        GAME.play(after, GAME.parse_action(after, text))
    except IllegalAction as error:
        raise InvalidState(f"backgammon: dice '{text}' are no roll here; {error}") from None
    return after


def turn_results(state):
    """Return the Position IDs, sorted, that the rest of this turn can lead to; the opponent is then on roll.

    Raises:
      InvalidState: no seat has dice to play.
    """
    if to_play(state) < 0:
        raise InvalidState(f"backgammon: '{position(state)}' has no dice to play; set a roll first.")
    seen, found, open_states = set(), set(), [GAME.copy(state)]
    while open_states:
        now = open_states.pop()
        for action in GAME.legal(now):
            after = GAME.copy(now)
            apply_action(after, action)
            if to_play(after) < 0:
                found.add(position_id(after))
            elif after.tobytes() not in seen:
                seen.add(after.tobytes())
                open_states.append(after)
    return sorted(found)


def details(state, rolled):
    """Where the dice were just given, the Position IDs that the whole turn can lead to."""
    return {"turn_results": turn_results(state)} if rolled else {}


def action_name(state, action):
    """A movement is `24/18`, `bar/20` or `6/off`; a roll is its dice, at the opening seat 0's first.

    Where two different dice bear off the same checker, the larger one is named: `3/off(5)`.
    """
    if to_play(state) == CHANCE:
        return f"{ROLLS[action, 0]}{ROLLS[action, 1]}"
    if action == PASS:
        return "pass"
    place, die = action // 6, action % 6 + 1
    source = "bar" if place == BAR else str(place + 1)
    if die <= place:
        return f"{source}/{place + 1 - die}"
    smaller = 6 * place + int(state.other) - 1
    named = die == state.die and place < state.other and smaller in GAME.legal(state)
    return f"{source}/off({die})" if named else f"{source}/off"


def render(state):
    """Seat 0 is X, its home at the lower right; seat 1 is O. Points are numbered for the seat on roll."""
    upper, lower = list(range(12, 24)), list(range(11, -1, -1))
    rows = [border(state, upper), *(board_row(state, upper, depth) for depth in range(5))]
    rows += [" |                  |BAR|                  |"]
    rows += [board_row(state, lower, depth) for depth in reversed(range(5))] + [border(state, lower)]
    for seat, row in ((1, 1), (0, 11)):
        bar, off = int(state.checkers[seat, BAR]), int(state.off[seat])
        rows[row] += f"  {'XO'[seat]}: pips {pips(state, seat)}, on the bar {bar}, off {off}"
    if state.over:
        points = max(OUTCOMES[state.over - 1])
        end = f"{'XO'[1 - state.seat]} wins {points} point{'s' if points > 1 else ''}"
    elif state.die < 0:
        end = "the opening roll is next"
    else:
        end = f"{'XO'[state.seat]} " + (f"has {dice_text(state)} to play" if state.die else "is to roll")
    return "\n".join([*rows, f" {position(state)}: {end}"])


def border(state, points):
    """Return the numbers of these points of seat 0, as the seat on roll counts them."""
    names = [f"{point + 1 if state.seat == 0 else 24 - point:2d}" for point in points]
    line = "+" + "-".join(names[:6]) + "------" + "-".join(names[6:]) + "-+"
    return " " + line.replace(" ", "-")


def board_row(state, points, depth):
    """Return a row of checkers, counted from the border; the fifth shows the number where there are more."""
    cells = []
    for place in [*points[:6], None, *points[6:]]:
        if place is None:
            bars = "".join(mark for seat, mark in enumerate("XO") if state.checkers[seat, BAR] > depth)
            cells.append("| " + f"{bars:<2s}" + "|")
            continue
        counts = int(state.checkers[0, place]), int(state.checkers[1, 23 - place])
        mark, count = "XO"[counts[1] > 0], max(counts)
        cells.append(f" {count:<2d}" if depth == 4 and count > 5 else f" {mark} " if count > depth else "   ")
    return " |" + "".join(cells) + "|"


GAME = Game(
    "backgammon",
    version=1,
    state_dtype=STATE,
    num_players=2,
    num_actions=PASS + 1,
    max_legal=2 * CHECKERS,
    max_chance=30,
    max_plies=1500,
    outcomes=OUTCOMES,
    observation=Observation(globals=FACTS),
    rules={
        "initial": initial,
        "to_play": to_play,
        "legal_actions": legal_actions,
        "apply_action": apply_action,
        "chance_outcomes": chance_outcomes,
        "outcome": outcome,
        "observe": observe,
        "heuristic": heuristic,
    },
    render=render,
    action_name=action_name,
    position=position,
    parse_position=parse_position,
    details=details,
)
