"""Which weights of a checkpoint are read; its tensors are stood for by numbers."""

import numpy as np
import pytest

from vqlab.export.checkpoint_choice import choose
from vqlab.export.checkpoint_parts import Stored
from vqlab.export.inert_pickle import Inert

SHAPES = {
    "conv.weight": (4, 3),
    "conv.bias": (4,),
    "norm.weight": (4,),
    "norm.running_mean": (4,),
    "norm.num_batches_tracked": (),
}
BUFFERS = {"norm.running_mean", "norm.num_batches_tracked"}


def stored(value, shape=()):
    return Stored(shape, True, lambda: value)


def state(value, names=SHAPES, prefix=""):
    return {prefix + name: stored(value, SHAPES[name]) for name in names}


def values(checkpoint, weights=""):
    """Name -> the number that stands for the tensor that is chosen."""
    return {name: tensor.read() for name, tensor in choose(checkpoint, weights)[0].items()}


PARAMETERS = [name for name in SHAPES if name not in BUFFERS]
MODEL, EMA = state(1), state(2, PARAMETERS)
STEP = {"step": stored(7), "num_updates": 3, "decay": 0.99}
AVERAGED = {name: 1 if name in BUFFERS else 2 for name in SHAPES}
LAYOUTS = {
    "a second state dict": {"model": MODEL, "ema": EMA},
    "a counter among the tensors": {"model": MODEL, "ema": EMA | STEP},
    "shadow": {"model": MODEL, "ema": {"shadow": EMA, "backup": {}} | STEP},
    "a list": {"model": MODEL, "ema": {"shadow_params": list(EMA.values())} | STEP},
    "timm": {"state_dict": MODEL, "state_dict_ema": state(2, PARAMETERS, "module.")},
    "BasicSR": {"params": MODEL, "params_ema": EMA},
    "model_ema": {"model": MODEL, "model_ema": {"state_dict": EMA}},
    "ema_model": {"model_state_dict": MODEL, "ema_model": EMA, "optimizer": {"ema": 3}},
    "a decay in the name": {"model": MODEL, "ema_0.9999": EMA},
    "Lightning": {"state_dict": MODEL, "callbacks": {"EMACallback": {"ema_state": EMA}}},
    "ema-pytorch": {
        **state(2, PARAMETERS, "ema_model."),
        **state(1, prefix="online_model."),
        "initted": stored(True),
        "step": stored(7),
    },
    "ema-pytorch beside the model": {
        "model": MODEL,
        "ema": state(2, PARAMETERS, "ema_model.") | state(3, prefix="online_model."),
    },
    "LitEma": {
        "state_dict": MODEL
        | {f"model_ema.{name.replace('.', '')}": EMA[name] for name in EMA}
        | {"model_ema.decay": stored(0.9), "model_ema.num_updates": stored(7)},
        "global_step": 7,
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_averages_are_read_and_only_buffers_come_from_the_model(layout):
    assert values(LAYOUTS[layout]) == values(LAYOUTS[layout], "ema") == AVERAGED
    assert values(LAYOUTS[layout], "model") == dict.fromkeys(SHAPES, 1)


def test_a_sentence_says_what_was_read():
    sentence = choose({"model": MODEL, "ema": {"shadow": EMA}})[1]
    assert sentence == (
        "read are the averaged weights 'ema/shadow', and from 'model' the buffers that they lack "
        "(norm.running_mean, norm.num_batches_tracked); not 'model'"
    )
    sentence = choose({"model": MODEL, "ema": EMA}, "model")[1]
    assert sentence == "read are the plain weights 'model'; not 'ema'"
    assert choose({"params": {"state_dict": MODEL}})[1].endswith("weights 'params/state_dict'")
    assert choose(MODEL)[1] == ""
    assert choose(MODEL | {"step": 3})[1] == "left out, as no tensors: step"


def test_what_holds_no_average_is_read_plain():
    plain = dict.fromkeys(SHAPES, 1)
    settings = {"ema": None, "ema_decay": 0.9, "use_ema": True, "ema_config": Inert(0.9)}
    moments = {"ema_optimizer": {"state": [stored(3)]}, "discriminator_ema": state(4)}
    for beside in (settings, moments, {"ema": {}}, {"optimizer": {"model": state(5)}}):
        assert values({"model": MODEL, **beside}) == plain
    assert values(MODEL | {"step": stored(7), "epoch": 3}) == plain
    # Parts of a network that are called like an average are not one.
    names = {"quantize.ema.weight": 1, "quantize.shadow": 1}
    assert values({name: stored(1) for name in names}) == names


def test_a_parameter_that_the_average_lacks_is_not_taken_from_the_model():
    lacking = state(2, ["conv.weight"])
    assert values({"model": MODEL, "ema": lacking}).keys() == {"conv.weight"} | BUFFERS


@pytest.mark.parametrize(
    ("checkpoint", "weights", "message"),
    [
        ({"ema_0.9": EMA, "ema_0.99": EMA}, "", "several weights: 'ema_0.9', 'ema_0.99'; name one"),
        ({"model": MODEL, "params": MODEL}, "", "several weights: 'model', 'params'; name one"),
        ({"model": MODEL}, "ema", "--weights=ema: no averaged weights, only 'model'"),
        ({"ema": EMA}, "model", "--weights=model: no plain weights, only 'ema'"),
        ({"model": MODEL}, "best", "--weights=best: no part 'best', only 'model'"),
        (
            {"model": MODEL, "ema": {"encoder": EMA, "decoder": EMA}},
            "",
            "averaged weights 'ema' cannot be read: they are of unknown layout; .*reads 'model'",
        ),
        ({"ema": [stored(1)]}, "", "'ema' is a list, and nothing in the file names its tensors"),
        ({"epoch": 3, "scaler": stored(1)}["scaler"], "", "holds no state dict$"),
        ({"epoch": 3, "lr": [0.1]}, "", r"holds no state dict, but epoch \(int\), lr \(list\)"),
        ({"module.a": stored(1), "a": stored(2)}, "", "two tensors have one name once"),
    ],
)
def test_nothing_is_guessed(checkpoint, weights, message):
    with pytest.raises(ValueError, match=message):
        choose(checkpoint, weights)


def test_one_of_several_averages_is_named():
    checkpoint = {"ema_0.9": EMA, "ema_0.99": state(3, PARAMETERS), "model": MODEL}
    assert values(checkpoint, "ema_0.99")["conv.bias"] == 3


@pytest.mark.parametrize(
    ("shapes", "averaged", "message"),
    [
        # Either of the two could be frozen.
        ([(4,), (4,)], [(4,)], "1 tensors without names, which fits the 2 .* in more than one way"),
        ([(4,), (3,)], [(3,), (4,)], "in no way"),
    ],
)
def test_a_list_that_does_not_name_itself_by_its_shapes_is_refused(shapes, averaged, message):
    model = {f"weight{i}": stored(1, shape) for i, shape in enumerate(shapes)}
    shadow = {"shadow_params": [stored(2, shape) for shape in averaged]}
    with pytest.raises(ValueError, match=message):
        choose({"model": model, "ema": shadow})


def test_frozen_parameters_are_passed_over_where_shapes_tell():
    model = {
        name: stored(1, shape) for name, shape in zip("abc", [(1, 4), (2,), (3,)], strict=True)
    }
    shadow = {"shadow_params": [stored(2, (2,)), stored(3, (3,))]}
    assert values({"model": model, "ema": shadow}) == {"b": 2, "c": 3}


def test_tensors_in_an_object_are_not_passed_over():
    held = Inert()
    held.__setstate__({"module": {"weight": stored(1)}})
    with pytest.raises(ValueError, match="'ema' cannot be read: they are an object of"):
        choose({"model": MODEL, "ema": held})
    assert np.isscalar(values({"model": MODEL, "ema": held}, "model")["conv.bias"])
