"""What Celery runs: image to tensor, the flows, the laboratory."""
