"""Reading arrays that describe themselves by DLPack, of real libraries too."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from elir_deploy.errors import ImageError, UnavailableError
from elir_deploy.runtime import device_arrays
from elir_deploy.runtime.device_arrays import empty_like, is_device_array


def check_capsule(array: Any, view: np.ndarray, kind: str) -> None:
    borrowed = device_arrays._by_capsule(array.__dlpack__(), kind)
    assert borrowed.address == view.ctypes.data
    assert (borrowed.shape, borrowed.strides) == (view.shape, view.strides)
    assert (borrowed.dtype, borrowed.kind) == (str(view.dtype), kind)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "int64"])
def test_capsules_of_numpy(dtype: str) -> None:
    whole = np.zeros((6, 7, 3), dtype)
    for view in (whole, whole[1:5, 2:], whole[::2], whole[:0], whole[2]):
        check_capsule(view, view, "array")


def test_capsules_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((3, 6, 8), dtype=torch.uint8)
    for view in (tensor, tensor.permute(1, 2, 0), tensor[:, 1:, :4]):
        check_capsule(view, view.numpy(), "Tensor")
    with pytest.raises(ImageError, match="the x has no DLPack capsule of version 0"):
        device_arrays._by_capsule(object(), "x")


def test_results_are_of_the_same_library() -> None:
    torch = pytest.importorskip("torch")

    class Frame(torch.Tensor):
        pass

    tensor = torch.zeros((4, 5, 3), dtype=torch.uint8)
    for image in (tensor, tensor.as_subclass(Frame), tensor[:, 1:4]):
        result = empty_like(image)
        assert type(result) is type(image)
        assert (result.shape, result.dtype, result.device) == (
            image.shape,
            image.dtype,
            image.device,
        )
        assert result.is_contiguous()


def test_results_that_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Picture", (), {"__module__": "some_library.inside"})
    with pytest.raises(ImageError, match=r"some_library.inside has no empty_like.*torch.as_tensor"):
        empty_like(kind())

    def fail(image: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(sys.modules, "some_library", types.SimpleNamespace(empty_like=fail))  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match=r"^no Picture for the result: out of memory$"):
        empty_like(kind())


def test_what_is_in_host_memory() -> None:
    torch = pytest.importorskip("torch")
    image = np.zeros((4, 5, 3), np.uint8)
    for value in (image, torch.zeros(3), torch.zeros(3, device="meta"), None, "x", torch.Tensor):
        assert not is_device_array(value)
