"""Facts that exporting and running share: tasks, families, the card. Imports no heavy package."""
