"""Indexes for what is asked often: the newest studies, all or those in a state, and those that nobody has read.

Revision: 0003, after: 0002, made: 2026-11-30
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_study_unread", "study", ["is_current", "read_at", "arrived_at", "priority", "state"])
    op.create_index("ix_study_newest", "study", ["is_current", "id"])
    op.create_index("ix_study_newest_in_state", "study", ["state", "id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_study_newest_in_state", "study")
    op.drop_index("ix_study_newest", "study")
    op.drop_index("ix_study_unread", "study")
