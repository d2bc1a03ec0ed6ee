"""The laboratory's commands."""

import typer

from workers.lab.calibrate_cli import calibrate
from workers.lab.evaluate_cli import evaluate
from workers.lab.models_cli import models_app
from workers.lab.sample_cli import sample
from workers.lab.train_cli import train


def register(app: typer.Typer) -> None:
    """Add these commands to the command line (entry point group ``triage_node.commands``)."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("sample")(sample)
    models_app.command("calibrate")(calibrate)
    app.add_typer(models_app, name="models")
