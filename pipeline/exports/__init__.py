"""Maps and features of a table as files for other programs, and how far two sets of features are apart."""
