"""From a source to a checkpoint that is complete and consistent."""
