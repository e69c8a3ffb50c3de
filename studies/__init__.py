"""Recipes, one YAML file a study; ``autonat run NAME`` finds them here."""
