"""FID's Inception in eager PyTorch, as pytorch-fid runs it: convolution, BatchNorm, ReLU."""

import torch
import torch.nn.functional as F

from vqlab.export.inception_weights import BATCH_NORM_EPS
from vqlab.models.pretrained.inception import STAGES
from vqlab.models.pretrained.inception_steps import Conv, Fork, Pool


class TorchInception:
    """images [B, 3, 299, 299] -> pooled features [B, 2048]; `state` is the official state dict."""

    def __init__(self, state):
        self._state = {name: torch.from_numpy(array) for name, array in state.items()}

    @torch.no_grad()
    def __call__(self, x):
        for _, steps in STAGES:
            for step in steps:
                x = self._run(step, x, "")
        return x.mean((2, 3))

    def _run(self, step, x, block):
        if isinstance(step, Pool):
            return _pool(step, x)
        if isinstance(step, Conv):
            return self._conv(step, x, block + step.name)
        made = []
        assert isinstance(step, Fork)
        for branch in step.branches:
            y = x
            for inner in branch:
                y = self._run(inner, y, block + step.name)
            made.append(y)
        return torch.cat(made, 1)

    def _conv(self, step, x, name):
        pads = step.stride == 1 and step.padding == "SAME"
        padding = tuple(side // 2 for side in step.kernel) if pads else 0
        y = F.conv2d(x, self._state[f"{name}.conv.weight"], None, step.stride, padding)
        mean, var, scale, bias = (
            self._state[f"{name}.bn.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = F.batch_norm(y, mean, var, scale, bias, False, 0.0, BATCH_NORM_EPS)
        return F.relu(y, inplace=True)


def _pool(step, x):
    padding = 0 if step.stride > 1 else 1
    if step.kind == "max":
        return F.max_pool2d(x, 3, step.stride, padding)
    return F.avg_pool2d(x, 3, step.stride, padding, count_include_pad=False)
