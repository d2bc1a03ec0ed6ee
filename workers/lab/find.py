"""A bundle by its name or folder, as commands take it."""

from pathlib import Path

import typer

from triage.bundles import Bundle, models_folder
from triage.cli.context import configuration_of
from triage.config.schema import Models
from triage.errors import BundleError


def configured_models(ctx: typer.Context) -> Models:
    """Return what the configuration says of models."""
    return configuration_of(ctx).models


def bundle_folder(models: Models, name: str) -> Path:
    """Return the folder ``name``, else the one of that name in ``models.dir``.

    Raises
    ------
    BundleError
        If there is none.
    """
    folder = Path(name) if Path(name).is_dir() else models_folder(models) / name
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {name}", remedy="run: triage-node models list")
    return folder


def open_bundle(ctx: typer.Context, name: str) -> Bundle:
    """Return the bundle of a name or in a folder; for a folder no configuration is needed.

    Raises
    ------
    BundleError
        If there is none, or it was altered.
    """
    return Bundle.open(Path(name) if Path(name).is_dir() else bundle_folder(configured_models(ctx), name))
