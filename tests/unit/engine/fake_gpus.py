"""Fake GPUs: CPU tensors that are tagged with a GPU, and raise where real ones of two devices could not be combined.

    with FakeGpus() as gpus:
        x = torch.ones(3).to("cuda:0")
        x + torch.ones(3, device="cuda:1")  # raises DeviceMismatch

The CPU computes everything, so that results can be compared to the bit. They are stricter than CUDA in one thing: an
index on the CPU into a tensor on a GPU is refused. As in CUDA, a CPU tensor without dimensions goes with any device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
KEY = "_fake_device"
_DATA: Any = Tensor.data
SET_DATA = _DATA.__set__
MIXED = (Tensor.copy_, SET_DATA, torch._has_compatible_shallow_copy_type)
"""What may be given tensors of two devices: a copy, and what ``Module.to`` does with its parameters."""


class DeviceMismatch(AssertionError):
    """Tensors of two devices in one operation."""


class FakeGpus(TorchFunctionMode):
    """``crossings`` counts the copies from one device to another, ``computed`` the operations on each device."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: Counter[tuple[str, str]] = Counter()
        self.computed: Counter[str] = Counter()

    def __enter__(self) -> Self:
        super().__enter__()
        # Making a parameter of a tensor does not go through any mode; the parameter is where the tensor is.
        self._new = nn.Parameter.__new__

        def new(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's own
            made = self._new(cls, data, requires_grad)
            return made if data is None else tagged(made, device_of(data))

        nn.Parameter.__new__ = new
        return self

    def __exit__(self, *error: object) -> None:
        nn.Parameter.__new__ = self._new
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return device_of(args[0])
        if func == Tensor.cpu:
            return self._moved(args[0], CPU)
        if func == Tensor.to:
            return self._to(args[0], list(args[1:]), kwargs)
        if func == Tensor.numpy and device_of(args[0]).type == "cuda":
            raise DeviceMismatch("numpy() of a tensor on a GPU")
        if getattr(func, "__name__", "") == "__get__":  # shape, dtype and the like, but T as well
            return tagged(func(*args, **kwargs), device_of(args[0]))
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            kwargs["device"] = CPU
            return tagged(func(*args, **kwargs), torch.device(asked))
        if func in MIXED:
            device = device_of(args[1] if func == SET_DATA else args[0])
            result = func(*args, **kwargs)
            tagged(args[0], device)
            return result
        met = {device_of(t) for t in tensors((args, kwargs)) if t.ndim or device_of(t) != CPU}
        if len(met) > 1:
            raise DeviceMismatch(
                f"{getattr(func, '__name__', func)}: tensors on {', '.join(sorted(map(str, met)))} meet"
            )
        device = next(iter(met), CPU)
        self.computed[str(device)] += 1
        return tagged(func(*args, **kwargs), device)

    def _to(self, tensor: Tensor, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        target = kwargs.pop("device", None)
        if args and isinstance(args[0], str | torch.device):
            target = args.pop(0)
            args = [one for one in args if isinstance(one, torch.dtype)]  # Module.to gives all, None and flags as well
        device = device_of(tensor) if target is None else torch.device(target)
        if args or kwargs:
            before, tensor = tensor, tensor.to(*args, **kwargs)
            tagged(tensor, device_of(before))
        return self._moved(tensor, device)

    def _moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        before = device_of(tensor)
        if before == device:
            return tensor
        self.crossings[str(before), str(device)] += 1
        # Another tensor, as on a real device: what is written into one does not show in the other.
        return tagged(tensor.clone(), device)


def device_of(tensor: Tensor) -> torch.device:
    tagged_device = tensor.__dict__.get(KEY)
    with torch._C.DisableTorchFunction():
        return tagged_device if tagged_device is not None else tensor.device


def tagged(result: Any, device: torch.device) -> Any:
    """``result``, its tensors tagged with ``device`` if that is a GPU."""
    for tensor in tensors(result):
        if device.type == "cuda":
            tensor.__dict__[KEY] = device
        else:
            tensor.__dict__.pop(KEY, None)
    return result


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, slices and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, slice):
        yield from tensors([value.start, value.stop, value.step])
