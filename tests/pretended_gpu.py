"""A pretended GPU: tensors of the CPU that say they are on another device.

What fails on a GPU fails here: an operation on tensors of two devices, a CPU generator
that shall fill a tensor of the other device, an index there for a tensor here, and a
tensor there that goes to NumPy.

    with PretendedGpu():
        x = torch.ones(2, device=DEVICE)
        x + torch.ones(2)  # RuntimeError
"""

import torch
from torch.overrides import TorchFunctionMode

DEVICE = "cuda"
T = torch.Tensor
GETTERS = {T.device.__get__, T.is_cuda.__get__, T.is_cpu.__get__}
TO_NUMPY = {T.numpy, T.__array__}
# may see tensors of both; the last one is nn.Module.to's
MOVES = {T.to, T.cpu, T.cuda, T.copy_, T.data.__set__, torch.tensor, torch.as_tensor}
MOVES |= {torch._has_compatible_shallow_copy_type}
# of a tensor there, they take an index from here, too
INDEXING = {T.__getitem__, T.__setitem__}


def leaves(value):
    """Yields the tensors in an operation's arguments or results, in lists too."""
    if isinstance(value, T):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def is_there(tensor):
    """Whether a tensor is on the pretended GPU: it has a mark."""
    return getattr(tensor, "there", False)


def names_gpu(device):
    return torch.device(device).type == DEVICE


class PretendedGpu(TorchFunctionMode):
    """While it is entered, tensors can be made on DEVICE, or moved there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = list(leaves([*args, *kwargs.values()]))
        there = [t for t in tensors if is_there(t)]
        # numbers mix with every device
        here = [t for t in tensors if not is_there(t) and t.dim() > 0]
        own = bool(args) and is_there(args[0])

        if there and func in GETTERS:
            name = func.__self__.__name__
            return {"device": torch.device(DEVICE), "is_cuda": True}.get(name, False)
        if there and func in TO_NUMPY:
            raise TypeError("a tensor on the pretended GPU does not go to NumPy")
        if there and here and func not in MOVES and not (own and func in INDEXING):
            raise RuntimeError(f"{func}: tensors are on two devices")

        goes_there = bool(there)
        if func is T.to:
            # x.to(device), x.to(other tensor), x.to(dtype)
            args = list(args)
            goes_there = own if len(tensors) == 1 else is_there(tensors[1])
            for i, arg in enumerate(args):
                if isinstance(arg, str | torch.device):
                    goes_there, args[i] = names_gpu(arg), "cpu"
        elif func in (T.cpu, T.cuda):
            func, goes_there = T.view_as, func is T.cuda
            args = (args[0], args[0])
        elif func == T.data.__set__:
            args[0].there = is_there(args[1])
        elif func is T.copy_ or func in INDEXING:
            goes_there = own
        if kwargs.get("device") is not None:
            goes_there, kwargs["device"] = names_gpu(kwargs["device"]), "cpu"
        if goes_there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: a CPU generator for a tensor on the GPU")

        result = func(*args, **kwargs)
        if func is T.__iter__:
            result = list(result)
        if func in MOVES and result is args[0] and goes_there != own:
            result = result.clone()
        for tensor in leaves(result):
            tensor.there = goes_there
        return iter(result) if func is T.__iter__ else result
