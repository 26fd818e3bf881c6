"""Errors whose message is meant for people: command-line tools print it and exit with 1."""


class StokerError(Exception):
    """Something a person can cure; the message says what, where, and what to do."""


class StoreError(StokerError):
    """A store that refuses, can't be reached, or is not what the uri says."""


class MissingObject(StoreError):
    """No object or file of this name."""


class DatasetError(StokerError):
    """Not a token dataset, or one whose tables contradict each other."""


class CorruptShard(StokerError):
    """Bytes that are not the ones that were written: names the shard and the byte range."""
