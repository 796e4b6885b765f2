"""Training: the schedules, the losses, the one trainer, and the stages that use it."""
