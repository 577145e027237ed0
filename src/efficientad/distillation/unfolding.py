"""A plain network's function in a network with batch normalization.

`PatchDescriptionNetwork.folded` turns batch normalization into plain convolutions.
`unfold` is its inverse, so that a teacher file can be trained further.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from efficientad.method.inputs import Images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.channel_moments import ChannelMoments


@torch.no_grad()
def unfold(
    network: PatchDescriptionNetwork,
    plain: PatchDescriptionNetwork,
    batches: Iterable[Images],
) -> None:
    """Make a network with batch normalization compute what a plain one does.

    Mean and variance of some batches become the running statistics, and weight and
    bias of each normalization undo them. In evaluation mode the two networks are equal
    but for rounding; in training mode, nearly so on similar images.

    Args:
        network: Network with batch normalization, of the size of `plain`; changed in
            place.
        plain: Network without.
        batches: Images to measure statistics on.
    """
    for own, given in zip(network.convolutions, plain.convolutions, strict=True):
        own.load_state_dict(given.state_dict())
    norms = [norm for norm in network.norms if isinstance(norm, torch.nn.BatchNorm2d)]
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


def _measure(
    moments: ChannelMoments, _norm: torch.nn.Module, inputs: tuple[Tensor]
) -> None:
    moments.add(inputs[0].movedim(1, -1).flatten(0, 2))
