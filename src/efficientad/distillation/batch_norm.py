"""A patch description network with batch normalization, for distilling in few steps.

Deviation: the paper distils without it. Normalization with fixed statistics is one
affine map per channel, so the convolution before it takes it up afterwards: `folded`
returns a plain network of the same function. `unfold` is its inverse, so that a teacher
file can be trained further.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientad.method.inputs import Images
from efficientad.method.networks import PLAIN, Operations, PatchDescriptionNetwork
from efficientad.method.sizes import Conv, ModelSize
from efficientad.training.channel_statistics import ChannelMoments


class NormalizedNetwork(PatchDescriptionNetwork):
    """Normalizes the output of each hidden convolution over the batch."""

    def __init__(self, size: ModelSize, *, operations: Operations = PLAIN) -> None:
        super().__init__(size, operations=operations)
        hidden = list(self.convolutions)[:-1]
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(c.out_channels) for c in hidden if isinstance(c, nn.Conv2d)
        )

    def _convolved(
        self, x: Tensor, convolution: nn.Module, layer: Conv, *, relu: bool
    ) -> Tensor:
        x = super()._convolved(x, convolution, layer, relu=False)
        norm = self.norms[list(self.convolutions).index(convolution)]
        x = norm(x)
        return functional.relu(x, inplace=True) if relu else x

    def folded(self) -> PatchDescriptionNetwork:
        """Return the plain network of the same function in evaluation mode."""
        plain = PatchDescriptionNetwork(self.size, self.n_channels)
        state = {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith("convolutions")
        }
        for index, norm in enumerate(self.norms):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight, bias = f"convolutions.{index}.weight", f"convolutions.{index}.bias"
            state[weight] = state[weight] * scale.view(-1, 1, 1, 1)
            state[bias] = norm.bias + (state[bias] - norm.running_mean) * scale
        plain.load_state_dict(state)
        return plain.train(self.training)


@torch.no_grad()
def unfold(
    network: NormalizedNetwork,
    plain: PatchDescriptionNetwork,
    batches: Iterable[Images],
) -> None:
    """Make a network with batch normalization compute what a plain one does.

    Mean and variance of some batches become the running statistics, and weight and
    bias of each normalization undo them. In evaluation mode the two networks are equal
    but for rounding; in training mode, nearly so on similar images.
    """
    for own, given in zip(network.convolutions, plain.convolutions, strict=True):
        own.load_state_dict(given.state_dict())
    norms = [norm for norm in network.norms if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_parameters()
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # passes its input on
    moments = [ChannelMoments() for _ in norms]
    hooks = [
        norm.register_forward_pre_hook(partial(_measure, own))
        for norm, own in zip(norms, moments, strict=True)
    ]
    network.eval()
    for images in batches:
        network(images)
    for hook, norm, measured in zip(hooks, norms, moments, strict=True):
        hook.remove()
        mean, std = (value.to(norm.weight.device) for value in measured.mean_and_std())
        norm.running_mean, norm.running_var = mean, std.square()
        norm.bias.copy_(mean)
        norm.weight.copy_((std.square() + norm.eps).sqrt())


def _measure(moments: ChannelMoments, _norm: nn.Module, inputs: tuple[Tensor]) -> None:
    moments.add(inputs[0].movedim(1, -1).flatten(0, 2))
