"""The command line: one module per verb or family of verbs. It asks, shows and explains; the layers below decide."""
