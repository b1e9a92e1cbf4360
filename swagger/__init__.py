"""The API description: one YAML file per operation."""
