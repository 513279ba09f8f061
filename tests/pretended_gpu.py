"""A pretended GPU: tensors of the CPU that say they are on another device.

What fails on a GPU fails here: an operation on tensors of two devices, a CPU generator
that shall fill a tensor of the other device, an index there for a tensor here, and a
tensor there that goes to NumPy.

    with PretendedGpu():
        x = torch.ones(2, device=DEVICE)
        x + torch.ones(2)  # RuntimeError
"""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# an existing name, for which autograd asks no driver
DEVICE = "meta"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
# tensor[index] may have its index on the CPU, and its device is the tensor's
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class There(torch.Tensor):
    """A tensor on the pretended GPU; `here` holds its values."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )

    def __init__(self, here):
        self.here = here

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __repr__(self):
        return f"There({self.here})"

    def numpy(self, **options):
        raise TypeError("a tensor on the pretended GPU does not go to NumPy")

    __array__ = numpy

    # reading values is allowed on a GPU, too
    def item(self):
        return self.here.item()

    def tolist(self):
        return self.here.tolist()

    def __format__(self, spec):
        return (
            format(self.item(), spec) if self.dim() == 0 else super().__format__(spec)
        )


def leaves(value):
    """Yields the tensors in an operation's arguments or results, in lists too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def convert(value, change):
    """Returns `value` with each of its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([convert(item, change) for item in value])
    return value


def to_here(tensor):
    return tensor.here if isinstance(tensor, There) else tensor


def to_there(tensor):
    return tensor if isinstance(tensor, There) else There(tensor)


def run(func, args, kwargs):
    """Runs one operation of PyTorch on the values, and says where its result is."""
    tensors = [*leaves(args), *leaves(list(kwargs.values()))]
    there = [t for t in tensors if isinstance(t, There)]
    # numbers mix with every device
    here = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]

    device = kwargs.get("device")
    if device is not None:
        goes_there = torch.device(device).type == DEVICE
    elif func in COPIES or func in INDEXING:
        goes_there = isinstance(args[0], There)
    else:
        goes_there = bool(there)

    if there and here and func not in COPIES:
        if func not in INDEXING or not goes_there:
            raise RuntimeError(f"{func}: tensors are on two devices")
    if goes_there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a CPU generator for a tensor on the GPU")

    options = {name: convert(value, to_here) for name, value in kwargs.items()}
    if device is not None:
        options["device"] = "cpu"
    result = func(*convert(args, to_here), **options)
    if not goes_there or func is aten._local_scalar_dense.default:
        return result

    result = convert(result, to_there)
    if there and isinstance(result, torch.Tensor):
        # x.add_(1) returns x itself, and x[0] shares its storage
        return return_and_correct_aliasing(func, args, kwargs, result)
    return result


def set_data(parameter, value):
    """parameter.data = value, where the value may be on the other device, as it may
    with a GPU; here the parameter stays where it is, until it is moved."""
    if not isinstance(parameter, There):
        value = to_here(value)
    torch.Tensor.data.__set__(parameter, value)


class PretendedGpu(TorchDispatchMode):
    """While it is entered, tensors can be made on DEVICE."""

    def __enter__(self):
        nn.Parameter.data = property(torch.Tensor.data.__get__, set_data)
        return super().__enter__()

    def __exit__(self, *error):
        del nn.Parameter.data
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})
