"""A small classifier of handwritten digits, trained on pages that `models.digits.pages` composes: see README.md.

Data: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0.
"""
