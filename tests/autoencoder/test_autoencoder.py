from functools import partial

import pytest
import torch

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian, Identity, Posterior
from ldm.autoencoder.convnet import Decoder, Encoder, Pixels
from ldm.autoencoder.quantiser import VectorQuantiser


def small(bottleneck, image_shape=(3, 16, 24)):
    parts = {"width": 8, "multipliers": (1, 2), "blocks": 1}
    return Autoencoder(image_shape, partial(Encoder, **parts), partial(Decoder, **parts), bottleneck)


@pytest.mark.parametrize(
    "bottleneck", [lambda: DiagonalGaussian(5), lambda: Identity(5), lambda: VectorQuantiser(7, 5)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_follow_from_the_image(bottleneck, channels):
    autoencoder = small(bottleneck(), (channels, 16, 24))
    x = torch.rand(2, channels, 16, 24) * 2 - 1
    assert autoencoder.latent_shape == (5, 8, 12) and autoencoder.factor == 2
    noise = torch.randn(2, *autoencoder.latent_shape)
    made = autoencoder(x, noise)
    assert made.image.shape == x.shape and made.z.shape == noise.shape
    posterior = autoencoder.encode(x)
    assert posterior.mean.shape == posterior.std.shape == noise.shape
    assert autoencoder.decode(posterior.sample(noise)).shape == x.shape
    (made.image.square().sum() + sum(made.terms.values())).backward()
    assert autoencoder.last_layer.grad is not None


def test_whitening_gives_unit_latents_and_is_undone_by_decoding():
    autoencoder, x, noise = small(DiagonalGaussian(4)).eval(), torch.randn(64, 3, 16, 24), torch.randn(64, 4, 8, 12)
    raw = autoencoder.posterior(x)
    z = raw.sample(noise)
    autoencoder.set_statistics(z.mean((0, 2, 3)).detach(), z.std((0, 2, 3)).detach())
    white = autoencoder.encode(x).sample(noise)
    torch.testing.assert_close(white.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.decode(white), autoencoder.decode_raw(z), atol=1e-5, rtol=1e-4)
    cached = autoencoder.whiten(Posterior(raw.mean, raw.std))
    torch.testing.assert_close((cached.mean, cached.std), (autoencoder.encode(x).mean, autoencoder.encode(x).std))
    torch.testing.assert_close(autoencoder(x, noise).z, z)  # training knows no whitening
    assert {"latent_mean", "latent_std"} <= autoencoder.state_dict().keys()


def test_statistics_must_be_usable():
    autoencoder = small(DiagonalGaussian(2))
    with pytest.raises(ValueError, match="never varies"):
        autoencoder.set_statistics(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="2 finite numbers"):
        autoencoder.set_statistics(torch.tensor([0.0, torch.nan]), torch.ones(2))


def test_identity_makes_the_latent_the_image():
    autoencoder, x = Autoencoder((3, 7, 5), Pixels, Pixels, Identity()), torch.randn(2, 3, 7, 5)
    assert autoencoder.latent_shape == (3, 7, 5)
    posterior = autoencoder.encode(x)
    assert torch.equal(posterior.mean, x) and posterior.std.abs().max() == 0
    assert torch.equal(autoencoder.decode(posterior.mean), x)
    assert not list(autoencoder.parameters())


def test_codes_stand_for_images():
    autoencoder, x = small(VectorQuantiser(7, 5)).eval(), torch.randn(2, 3, 16, 24)
    codes = autoencoder.codes(x)
    assert codes.shape == (2, 8, 12) and codes.dtype == torch.int64
    torch.testing.assert_close(autoencoder.decode_codes(codes), autoencoder.decode(autoencoder.encode(x).mean))
    with pytest.raises(TypeError, match=r"codes need a vector quantiser.*DiagonalGaussian"):
        small(DiagonalGaussian(5)).codes(x)


def test_unfit_sizes_are_refused_with_the_nearest_good_ones():
    with pytest.raises(ValueError, match=r"15x24 .* factor 2; the nearest good side to 15 is 14 or 16"):
        small(DiagonalGaussian(4), (3, 15, 24))
    with pytest.raises(ValueError, match=r"images of 15x25 .* to 15 is 14 or 16, to 25 is 24 or 26: resize"):
        small(DiagonalGaussian(4), (3, 15, 25))
    with pytest.raises(ValueError, match=r"good side to 1 is 2: resize"):
        small(DiagonalGaussian(4), (3, 1, 24))
    with pytest.raises(
        ValueError, match=r"by 8, this autoencoder's factor 2 times the 4 of the prior .* to 28 is 24 or 32:"
    ):
        small(DiagonalGaussian(4)).check_size((3, 32, 28), 4)
    small(DiagonalGaussian(4)).check_size((3, 32, 24), 4)
    with pytest.raises(ValueError, match="17"):
        small(DiagonalGaussian(4)).encode(torch.randn(1, 3, 16, 17))
    with pytest.raises(ValueError, match="images of 3 channels; got 1"):
        small(DiagonalGaussian(4)).encode(torch.randn(1, 1, 16, 24))
    assert small(DiagonalGaussian(4)).encode(torch.randn(1, 3, 32, 8)).mean.shape == (1, 4, 16, 4)


def test_parts_must_agree():
    encoder, decoder = partial(Encoder, width=8, multipliers=(1, 1)), partial(Decoder, width=8, multipliers=(1,))
    with pytest.raises(ValueError, match="divides sides by 2 but the decoder multiplies them by 1"):
        Autoencoder((3, 8, 8), encoder, decoder, DiagonalGaussian(4))


def test_in_training_the_decoder_reads_a_draw_and_not_the_mean():
    autoencoder = small(DiagonalGaussian(channels=4))
    x, noise = torch.rand(2, 3, 16, 24), torch.randn(2, *autoencoder.latent_shape)
    made, posterior = autoencoder(x, noise), autoencoder.posterior(x)
    drawn = posterior.mean + posterior.std * noise
    torch.testing.assert_close(made.z, drawn)
    torch.testing.assert_close(made.image, autoencoder.decoder(drawn))
    assert (made.image - autoencoder.decoder(posterior.mean)).abs().max() > 1e-3
