"""Games of `zeroloop uci` under python-chess's driver: are all moves legal, and do they come in time?

python examples/uci_match.py runs/chess --games 200 --movetime 100
python examples/uci_match.py runs/chess --games 20 --clock 1 --increment 0.1
python examples/uci_match.py runs/chess --opponent stockfish --games 200

Without an opponent the engine plays both sides, one process each. With --clock a side whose time is used up
has lost on time; with --movetime a move is late when more than the time and --margin has passed between the
command and the answer, the driver's own time included.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import time

import chess
import chess.engine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("model", help="a run or model file of chess")
parser.add_argument("--opponent", help="program of another UCI engine, which gets --opponent-nodes")
parser.add_argument("--opponent-nodes", type=int, default=1)
parser.add_argument("--games", type=int, default=200)
parser.add_argument("--movetime", type=float, default=100, help="milliseconds a move")
parser.add_argument("--margin", type=float, default=0, help="milliseconds that a move may be late")
parser.add_argument("--clock", type=float, help="seconds of a side, in place of --movetime")
parser.add_argument("--increment", type=float, default=0.0, help="seconds a move, with --clock")
parser.add_argument("--plies", type=int, default=120, help="a longer game is cut there")
parser.add_argument("--opening-plies", type=int, default=6, help="random plies at first")
parser.add_argument("--seed", type=int, default=1)
given = parser.parse_args()


def start(own):
    """Return a running engine that is compiled and warm."""
    program = [sys.executable, "-m", "zeroloop", "uci", given.model]
    if not own:
        found = shutil.which(given.opponent, path=f"{os.environ.get('PATH', '')}:/usr/games")
        if found is None:
            sys.exit(f"there is no program '{given.opponent}'; for Stockfish: apt install stockfish")
        program = [found]
    engine = chess.engine.SimpleEngine.popen_uci(program, timeout=None)
    engine.ping()
    return engine


def opening(rng):
    """Return a board after random moves."""
    while True:
        board = chess.Board()
        for _ in range(given.opening_plies):
            moves = list(board.legal_moves)
            if not moves:
                break
            board.push(rng.choice(moves))
        if not board.is_game_over():
            return board


def play(board, sides, number, counts, took, searched):
    """Play one game; `sides` are (engine, own) of White and Black."""
    clocks = [given.clock, given.clock]
    while not board.is_game_over(claim_draw=True) and board.ply() < given.plies:
        seat = 0 if board.turn else 1
        engine, own = sides[seat]
        if not own:
            limit = chess.engine.Limit(nodes=given.opponent_nodes)
        elif given.clock is None:
            limit = chess.engine.Limit(time=given.movetime / 1000)
        else:
            limit = chess.engine.Limit(
                white_clock=clocks[0],
                black_clock=clocks[1],
                white_inc=given.increment,
                black_inc=given.increment,
            )
        began = time.perf_counter()
        try:
            answer = engine.play(board, limit, game=number, info=chess.engine.INFO_BASIC)
        except chess.engine.EngineError as error:
            print(f"game {number}, {board.fen()}: {error}")
            counts["illegal" if own else "opponent failed"] += 1
            return
        passed, move = time.perf_counter() - began, answer.move
        if own:
            took.append(1000 * passed)
            searched.append(1000 * answer.info.get("time", 0.0))
            counts["moves"] += 1
        if move is None or move not in board.legal_moves:
            print(f"game {number}, {board.fen()}: answered {move}")
            counts["illegal" if own else "opponent failed"] += 1
            return
        if own and given.clock is not None:
            clocks[seat] -= passed
            if clocks[seat] < 0:
                print(f"game {number}, {board.fen()}: lost on time after {passed:.3f} s")
                counts["lost on time"] += 1
                return
            clocks[seat] += given.increment
            counts["least clock"] = min(counts["least clock"], clocks[seat])
        elif own and 1000 * passed > given.movetime + given.margin:
            counts["late"] += 1
        board.push(move)
    counts["cut"] += not board.is_game_over(claim_draw=True)
    counts["played to the end"] += board.is_game_over(claim_draw=True)


def main():
    rng, took, searched = random.Random(given.seed), [], []
    counts = dict.fromkeys(("moves", "illegal", "late", "lost on time", "opponent failed"), 0)
    counts |= {"played to the end": 0, "cut": 0, "least clock": float("inf")}
    began = time.perf_counter()
    first, second = start(True), start(given.opponent is None)
    own_second = given.opponent is None
    for number in range(given.games):
        sides = [(first, True), (second, own_second)]
        board = opening(rng)
        play(board, sides if number % 2 == 0 else sides[::-1], number, counts, took, searched)
        if number % 10 == 9:
            print(f"{number + 1} games, {time.perf_counter() - began:.0f} s, {counts}", flush=True)
    first.quit()
    second.quit()
    print(f"{given.games} games in {time.perf_counter() - began:.0f} s")
    for name, count in counts.items():
        print(f"{name}: {count}")
    for what, values in (("from command to answer", took), ("of the search", searched)):
        shares = statistics.quantiles(values, n=1000)
        print(
            f"milliseconds {what}: median {statistics.median(values):.1f}, 99 % {shares[989]:.1f}, "
            f"99.9 % {shares[998]:.1f}, longest {max(values):.1f}"
        )


main()
