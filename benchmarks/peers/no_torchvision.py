"""MosaicML Streaming where torchvision can't be loaded."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Absent(ModuleType):
    """A module of which only names are needed: classes without content."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def without_torchvision() -> None:
    """Puts empty modules in its place, if it doesn't load.

    PyPI's build of it wants CUDA and doesn't load beside torch's CPU build. Streaming asks for it
    on import, and uses it for images alone.
    """
    try:
        import torchvision  # noqa: F401
    except Exception:
        for module in ("torchvision", "torchvision.datasets", "torchvision.transforms.functional"):
            sys.modules[module] = Absent(module)
            sys.modules[module].__spec__ = ModuleSpec(module, None, is_package=True)
            sys.modules[module].__path__ = []
