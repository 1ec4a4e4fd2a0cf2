"""One file per class of attack (docs/threat-model.md), named after it.

Each attack is a function that says whether it succeeded. It must fail against the node as it is, and it must
succeed once the defence is taken away (`monkeypatch`): a test that cannot see the hole would not see it come
back.
"""
