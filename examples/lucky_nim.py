"""Lucky Nim: roll a die, take at most that many stones from one heap; the last stone wins."""

from zeroloop.errors import InvalidState
from zeroloop.games import CHANCE, TERMINAL, Game, Observation, helper

FACES = 6
OUTCOMES = [[1, -1], [-1, 1]]
"""Points of the two seats: the first seat took the last stone, or the second did."""


@helper
def stones_left(state):
    total = 0
    for heap in range(len(state.left)):
        total += state.left[heap]
    return total


def to_play(state):
    if stones_left(state) == 0:
        return TERMINAL
    return CHANCE if state.die == 0 else state.mover


def chance_outcomes(state, out, probability):
    for face in range(FACES):
        out[face] = face
        probability[face] = 1 / FACES
    return FACES


def legal_actions(state, out):
    k = 0
    for heap in range(len(state.left)):
        for take in range(1, min(state.die, state.left[heap]) + 1):
            out[k] = FACES * heap + take - 1
            k += 1
    return k


def apply_action(state, action):
    if state.die == 0:
        state.die = action + 1
    else:
        state.left[action // FACES] -= action % FACES + 1
        state.die = 0
        state.mover = 1 - state.mover


def outcome(state):
    return 1 - state.mover


def observe(state, planes, global_facts):
    """One plane, heap by stone: 1 where a stone lies. Globals: which face the die shows."""
    for heap in range(planes.shape[1]):
        for stone in range(planes.shape[2]):
            planes[0, heap, stone] = stone < state.left[heap]
    for face in range(FACES):
        global_facts[face] = state.die == face + 1


def symmetry(state, k):
    """Move every heap k places on."""
    for _ in range(k):
        last = state.left[-1]
        for heap in range(len(state.left) - 1, 0, -1):
            state.left[heap] = state.left[heap - 1]
        state.left[0] = last


def heuristic(state, seat):
    """Guess that whoever is to move wins once the die could take all that is left."""
    if stones_left(state) > FACES:
        return 0.0
    return 0.5 if state.mover == seat else -0.5


def action_name(state, action):
    """A roll is `d2`; taking two stones from the first heap is `a2`."""
    if state.die == 0:
        return f"d{action + 1}"
    return "abcdefgh"[action // FACES] + str(action % FACES + 1)


def position(state):
    """Heaps, the seat to move, and the die, which is 0 before the roll: `7,7,4 1 d0`."""
    return f"{','.join(str(x) for x in state.left)} {state.mover + 1} d{state.die}"


def make(heaps=3, stones=7):
    def initial(state, seed):
        for heap in range(heaps):
            state.left[heap] = stones
        state.mover = 0
        state.die = 0

    def symmetry_action(action, k):
        return (action // FACES + k) % heaps * FACES + action % FACES

    def parse_position(state, text):
        try:
            left, mover, die = text.split()
            state.left = [int(x) for x in left.split(",")]
            state.mover, state.die = int(mover) - 1, int(die.removeprefix("d"))
        except (ValueError, OverflowError):
            raise InvalidState(f"lucky_nim: '{text}' is not like '7,7,4 1 d0'.") from None
        fits = min(state.left) >= 0 and max(state.left) <= stones and state.mover in (0, 1)
        if not fits or not 0 <= state.die <= FACES:
            raise InvalidState(f"lucky_nim: '{text}' has a heap, seat or die that does not exist.")

    return Game(
        "lucky_nim",
        version=1,
        options={"heaps": heaps, "stones": stones},
        state_dtype=[("left", "i1", (heaps,)), ("mover", "i1"), ("die", "i1")],
        num_players=2,
        num_actions=FACES * heaps,
        max_legal=FACES * heaps,
        max_chance=FACES,
        max_plies=2 * heaps * stones,
        num_symmetries=heaps,
        outcomes=OUTCOMES,
        observation=Observation(planes=(1, heaps, stones), globals=FACES),
        rules={
            "initial": initial,
            "to_play": to_play,
            "chance_outcomes": chance_outcomes,
            "legal_actions": legal_actions,
            "apply_action": apply_action,
            "outcome": outcome,
            "observe": observe,
            "symmetry": symmetry,
            "symmetry_action": symmetry_action,
            "heuristic": heuristic,
        },
        action_name=action_name,
        position=position,
        parse_position=parse_position,
    )
