"""A bundle by its name or folder, as commands take it."""

from pathlib import Path

import typer

from triage.bundles import Bundle, models_folder
from triage.config import load as load_configuration
from triage.errors import BundleError


def open_bundle(ctx: typer.Context, name: str) -> Bundle:
    """Return the bundle in the folder ``name``, else the one of that name in ``models.dir``.

    Raises
    ------
    BundleError
        If there is none, or it was altered.
    """
    folder = Path(name)
    if not folder.is_dir():
        root = ctx.find_root()
        file = root.params.get("config") if root.params else None
        models = load_configuration(Path(file) if file else None).configuration.models
        folder = models_folder(models) / name
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {name}", remedy="run: triage-node models list")
    return Bundle.open(folder)
