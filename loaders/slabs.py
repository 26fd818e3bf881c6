"""Memory for finished batches, used again only when nobody holds a tensor of it any more."""

import weakref
from collections import deque
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[Any]

_KEPT = 16


class Slabs:
    """int64 tensors, or int32 ones, whose memory comes back by itself.

    A tensor made from a numpy array holds that array as long as any view of its storage lives. Each
    use of a slab gets a fresh array object, so the end of that object is the end of the last
    tensor.
    """

    def __init__(self, *, pinned: bool = False, narrow: bool = False) -> None:
        """
        Args:
            pinned: page-locked memory from torch's own allocator, which waits for copies to the GPU
                that are still under way before it uses memory again.
            narrow: int32.
        """
        self._pinned = pinned
        self._dtype = torch.int32 if narrow else torch.int64
        self._array_dtype = np.dtype("i4" if narrow else "i8")
        self._free: deque[Ints] = deque(maxlen=_KEPT)

    def take(self, shape: tuple[int, int], room: int) -> tuple[torch.Tensor, Ints]:
        """An uninitialized tensor of this shape, and the array through which to fill it.

        `room`: elements that the largest tensors have. All slabs are that large, so that any of
        them serves; memory that is never written costs nothing.
        """
        if self._pinned:
            tensor = torch.empty(shape, dtype=self._dtype, pin_memory=True)
            return tensor, tensor.numpy()
        size = prod(shape)
        memory = self._slab(max(size, room))
        array = memory[:size].reshape(shape)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array), array

    def _slab(self, size: int) -> Ints:
        try:
            memory = self._free.pop()  # the latest one back is still in the CPU's cache
        except IndexError:
            return np.empty(size, self._array_dtype)
        return memory if memory.size == size else np.empty(size, self._array_dtype)
