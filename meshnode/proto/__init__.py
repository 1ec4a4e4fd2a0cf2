"""The sans-IO core: decides everything, touches nothing. Time, randomness and addresses are arguments.

`Node` (node.py) is the door. Its verbs are those of DESIGN section 2: `handle_*` take what happened, `poll_*` give what
is to be done. It is deterministic in (config, state, entropy, sequence of calls).
"""
