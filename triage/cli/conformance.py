"""`triage-node conformance`: the DICOM conformance statement of this configuration."""

import typer

from triage.cli.context import ConfigOption, configuration_of
from triage.conformance import conformance_statement


def conformance(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Print the DICOM conformance statement, generated from the running configuration."""
    typer.echo(conformance_statement(configuration_of(ctx, config)), nl=False)
