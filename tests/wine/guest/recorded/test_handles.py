"""What every function of a disk says to a handle that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import oracle
import pytest
from calls import CALLS, FREE, PROGRESS, STARTS, Call, Start
from recorder import Recorder

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle


def test_every_function_is_in_the_table() -> None:
    assert oracle.PARAMETERS.keys() == {*FREE, *CALLS, PROGRESS}
    assert len(oracle.PARAMETERS) == 29
    assert STARTS.keys() < CALLS.keys()


@pytest.mark.parametrize("handle", [None, 4, "C:\\disk.vhd", object()])
@pytest.mark.parametrize(("function", "call"), CALLS.items())
def test_what_is_not_a_handle_never_reaches_the_system(
    double: Recorder, function: str, call: Call, handle: Any
) -> None:
    with pytest.raises(TypeError, match="handle"):
        call(handle)
    assert double.calls() == []


@pytest.mark.parametrize(("function", "call"), CALLS.items())
def test_a_closed_handle_never_reaches_the_system(
    double: Recorder, disk: Handle, function: str, call: Call
) -> None:
    disk.close()
    with pytest.raises(ValueError, match="closed"):
        call(disk)
    assert double.calls() == []


@pytest.mark.parametrize("overlapped", [4, "event", object()])
@pytest.mark.parametrize(("function", "start"), STARTS.items())
def test_what_is_not_an_overlapped_never_reaches_the_system(
    double: Recorder, disk: Handle, function: str, start: Start, overlapped: Any
) -> None:
    with pytest.raises(TypeError, match="overlapped"):
        start(disk, overlapped)
    assert double.calls() == []


def test_progress_of_nothing_never_reaches_the_system(
    double: Recorder, disk: Handle
) -> None:
    progress: Any = _virtdisk.GetVirtualDiskOperationProgress
    for handle, overlapped in [(None, _virtdisk.Overlapped()), (disk, None)]:
        with pytest.raises(TypeError):
            progress(handle, overlapped)
    with pytest.raises(ValueError, match="no operation"):
        progress(disk, _virtdisk.Overlapped())
    assert double.calls() == []
