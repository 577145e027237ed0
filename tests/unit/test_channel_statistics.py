import torch

from efficientad.training.channel_statistics import ChannelMoments


def test_moments_do_not_cancel():
    vectors = 1e6 + torch.randn(100, 3, dtype=torch.float64)
    moments = ChannelMoments()
    for part in vectors.split(17):
        moments.add(part)

    mean, std = moments.mean_and_std()

    torch.testing.assert_close(mean, vectors.mean(0).float())
    torch.testing.assert_close(std, vectors.std(0, correction=0).float())
