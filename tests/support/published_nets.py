"""Published nets that the catalog does not have, as definitions of any size."""

from __future__ import annotations

from tests.support.definitions import convolution, data, layer, pooling


def unet(side: int, channels: int = 64) -> str:
    """U-Net (Ronneberger, Fischer, Brox, MICCAI 2015): valid convolutions, crops, and 2x2 transposed convolutions.

    With 64 channels at 572 pixels it is the paper's: 388 pixels come out, of 31,030,658 parameters.
    """
    text, blob, kept = 'name: "U-Net" ' + data(1, 1, side, side), "data", list[str]()
    for level in range(5):
        for place in "ab":
            text, blob = _convolution(text, blob, f"down{level}{place}", channels << level)
        if level < 4:
            kept.append(blob)
            text += pooling(f"pool{level}", blob, "kernel_size: 2 stride: 2")
            blob = f"pool{level}"
    offset = 0
    for level in (3, 2, 1, 0):
        offset = 2 * (offset + 2)  # the two convolutions of the level below, and what it was cropped by
        up, crop, both = (f"{kind}{level}" for kind in ("up", "crop", "both"))
        wide = f"num_output: {channels << level} kernel_size: 2 stride: 2"
        text += layer("Deconvolution", up, blob, convolution_param=wide) + layer("ReLU", f"relu_{up}", up, up)
        text += layer("Crop", crop, f"{kept[level]} {up}", crop_param=f"offset: {offset}")
        text += layer("Concat", both, f"{crop} {up}")
        blob = both
        for place in "cd":
            text, blob = _convolution(text, blob, f"up{level}{place}", channels << level)
        offset += 2
    text += convolution("score", blob, "num_output: 2 kernel_size: 1")
    return text + layer("Softmax", "prob", "score")


def vdsr(height: int, width: int, channels: int = 64, classes: int = 1) -> str:
    """VDSR (Kim, Lee, Lee, CVPR 2016): twenty 3x3 convolutions, and the sum of the last one with the image.

    Args:
        height: In pixels.
        width: In pixels.
        channels: The paper has 64.
        classes: With more than one the last convolution has as many channels, and a Softmax replaces the sum: a model
            needs classes, and the image that VDSR returns has none.
    """
    text, blob = 'name: "VDSR" ' + data(1, 1, height, width), "data"
    for number in range(1, 20):
        text, blob = _convolution(text, blob, f"conv{number}", channels, pad=1)
    text += convolution("conv20", blob, f"num_output: {classes} kernel_size: 3 pad: 1")
    return text + (layer("Softmax", "prob", "conv20") if classes > 1 else layer("Eltwise", "sum", "conv20 data"))


def _convolution(text: str, bottom: str, name: str, channels: int, pad: int = 0) -> tuple[str, str]:
    text += convolution(name, bottom, f"num_output: {channels} kernel_size: 3 pad: {pad}")
    return text + layer("ReLU", f"relu_{name}", name, name), name
