import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.linear import WORTHWHILE_MACS, WORTHWHILE_MACS_IN_TRAINING, Linear, linear, linear_gelu


def problem(seed, rows, inputs, outputs):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((2, rows, inputs), (outputs, inputs), (outputs,))
    )
    return x, weight, bias


@given(st.integers(0, 9), st.integers(1, 40), st.sampled_from([8, 48, 256]), st.sampled_from([8, 300]), st.booleans())
@settings(max_examples=40)
def test_equals_the_ordinary_product_up_to_rounding(seed, rows, inputs, outputs, with_bias):
    x, weight, bias = problem(seed, rows, inputs, outputs)
    expected = F.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    with torch.inference_mode():
        torch.testing.assert_close(
            linear(x, weight, bias if with_bias else None), expected.float(), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            linear_gelu(x, weight, bias if with_bias else None),
            F.gelu(expected, approximate="tanh").float(),
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_other_product_is_taken_for_large_products_in_float32(monkeypatch):
    x, weight, bias = problem(0, WORTHWHILE_MACS // (256 * 300), 256, 300)
    taken = []
    monkeypatch.setattr(F, "linear", lambda *arguments: taken.append(arguments))
    with torch.no_grad():  # training's own bound is higher
        linear(x, weight, bias)
    assert len(taken) == 1
    with torch.inference_mode():
        linear(x.double(), weight.double(), bias.double())
        linear(x[:, :1], weight, bias)
        assert len(taken) == 3
        if torch.backends.mkldnn.is_available():
            assert linear(x, weight, bias).shape == (*x.shape[:2], 300)
            assert len(taken) == 3


def test_layer_has_the_ordinary_names_and_gradients():
    layer, plain = Linear(256, 300), torch.nn.Linear(256, 300)
    plain.load_state_dict(layer.state_dict())
    x, _, _ = problem(1, 20, 256, 300)
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    with pytest.raises(RuntimeError):
        layer(x[..., :3])


def test_gradients_equal_the_ordinary_products_up_to_rounding():
    x, weight, bias = problem(2, WORTHWHILE_MACS_IN_TRAINING // (2 * 64 * 192) + 1, 64, 192)
    direction = torch.randn(*x.shape[:2], 192, generator=torch.Generator().manual_seed(3))
    expected = [value.double().requires_grad_() for value in (x, weight, bias)]
    (F.linear(*expected) * direction).sum().backward()
    for needed in ((0, 1, 2), (0,), (1, 2)):
        inputs = [value.clone().requires_grad_(number in needed) for number, value in enumerate((x, weight, bias))]
        result = linear(*inputs)
        if torch.backends.mkldnn.is_available():
            assert type(result.grad_fn).__name__ == "_DifferentiableBackward"
        (result * direction).sum().backward()
        for number, (value, reference) in enumerate(zip(inputs, expected, strict=True)):
            if number in needed:
                torch.testing.assert_close(value.grad, reference.grad.float(), rtol=1e-4, atol=1e-3)
            else:
                assert value.grad is None
