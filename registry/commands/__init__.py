"""The commands for those who run a registry, a module for each subject."""
