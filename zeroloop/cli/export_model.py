"""Command: export-model."""

from __future__ import annotations

import pathlib

import click

from .base import given, json_flag, main, print_answer


@main.command("export-model")
@click.argument("name", metavar="RUN", callback=given)
@click.argument("path", metavar="FILE.onnx", type=click.Path(dir_okay=False, path_type=pathlib.Path))
@click.option("--opset", type=int, default=17, show_default=True, help="ONNX operator set.")
@json_flag
def export_model(name: str, path: pathlib.Path, opset: int, as_json: bool) -> None:
    """Write RUN's network (a run, RUN:newest, a hash, demo:connect4) as FILE.onnx, checked against torch."""
    from ..errors import PlayerError
    from ..model import find, load
    from ..onnx import export

    found = find(name)
    if found is None:
        raise PlayerError(f"there is no model '{name}': it is no run directory, model file, hash or demo.")
    model = load(found)
    done = export(model, path, opset)
    print_answer({"file": str(path), "model": model.hash, "game": model.game.id, **done.plain()}, as_json)
