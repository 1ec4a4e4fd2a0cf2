"""Cryptography: the only importers of PyNaCl and cryptography. Nothing here invents an algorithm."""
