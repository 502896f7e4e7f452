from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from service.cam.flops import counting_flops


def test_a_multiplication_and_an_addition_count_as_two() -> None:
    with counting_flops() as counter:
        nn.Linear(3, 4)(torch.ones(2, 3))
        assert counter.get_total_flops() == 2 * 2 * 3 * 4
        nn.Conv2d(1, 5, 3)(torch.ones(1, 1, 4, 4))
    assert counter.get_total_flops() == 2 * 2 * 3 * 4 + 2 * (2 * 2) * 5 * 9


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import torch._dynamo; "], ids=["no compiler", "the compiler"])
def test_the_compiler_is_told_where_it_is_there_and_not_imported_where_not(before: str) -> None:
    script = (
        f"import sys, torch; {before}from service.cam.flops import counting_flops\n"
        "with counting_flops() as counter: torch.ones(2, 3) @ torch.ones(3, 4)\n"
        "print(counter.get_total_flops(), 'torch._dynamo' in sys.modules)\n"
        "import torch._dynamo\n"
        "with counting_flops() as counter: torch.ones(2, 3) @ torch.ones(3, 4)\n"
        "from torch.utils.flop_counter import _FlopCounterMode\n"
        "dispatch = _FlopCounterMode.__torch_dispatch__.__wrapped__\n"
        "print(counter.get_total_flops(), getattr(dispatch, '__dynamo_disable') is dispatch)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"48 {bool(before)}", "48 False"]


def test_it_is_torchs_own_count() -> None:
    def compute() -> None:
        queries = nn.Conv2d(3, 8, 3, 2)(torch.ones(2, 3, 9, 9)).flatten(2).mT  # (2, 16, 8)
        functional.scaled_dot_product_attention(queries, queries, nn.Linear(8, 6)(queries))

    with torch.inference_mode(), FlopCounterMode(display=False) as theirs:
        compute()
    with torch.inference_mode(), counting_flops() as ours:
        compute()
    assert ours.get_total_flops() == theirs.get_total_flops() > 0
