"""Small inputs of the kinds that public reports describe; `python -m tests.field` converts the definitions."""
