"""The guest's tests run under Wine (tests/test_wine.py), not here."""

collect_ignore = ["guest"]
