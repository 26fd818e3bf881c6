"""Errors whose message is meant for people: command-line tools print it and exit with 1."""


class StokerError(Exception):
    """Something a person can cure; the message says what, where, and what to do."""


class StoreError(StokerError):
    """A store that refuses, can't be reached, or is not what the uri says."""


class MissingObject(StoreError):
    """No object or file of this name."""


class CutShort(StoreError):
    """An object that ends before the bytes that were asked for."""


class Unavailable(StoreError):
    """A store that doesn't answer, or not to the end, or asks to be left alone for a while."""


class DatasetError(StokerError):
    """Not a token dataset, or one whose tables contradict each other."""


class CorruptShard(StokerError):
    """Bytes that are not the ones that were written: names the shard and the byte range."""
