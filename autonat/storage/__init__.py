"""The store: results by fingerprint, studies with their journal, and artifacts in a folder beside the database."""
