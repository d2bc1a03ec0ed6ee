"""A study's notes: which images were scored, and what was done to them. Until now only its events told.

Revision: 0002, after: 0001, made: 2026-11-29
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("study", sa.Column("notes", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Take back."""
    op.drop_column("study", "notes")
