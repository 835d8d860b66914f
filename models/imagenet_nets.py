"""The catalog's nets for the 1,000 classes of ImageNet."""

from models.entry import CatalogEntry, PublishedWeights

# Channel means of Caffe's imagenet_mean.binaryproto, the mean image of the ILSVRC-2012 training set.
_ILSVRC_2012_MEAN = (104.00699, 116.66877, 122.67892)

# The mean of GoogLeNet and SqueezeNet: the same, rounded (mean_value in their train_val.prototxt).
_ROUNDED_MEAN = (104.0, 117.0, 123.0)
# The mean of the VGG models, from their readmes.
_VGG_MEAN = (103.939, 116.779, 123.68)
# Channel means of ResNet_mean.binaryproto, the mean image of the ResNets.
_RESNET_MEAN = (103.06262, 115.90288, 123.15163)
# The mean that the models of Shicai Yang subtract, from their readmes.
_SHICAI_MEAN = (103.94, 116.78, 123.68)
_NOT_STATED = "not stated by the publisher"
# The repository of SqueezeNet, at one commit; its readmes state no digest.
_SQUEEZENET = "https://github.com/forresti/SqueezeNet/raw/a47b6f13d30985279789d08053d37013d67d131b"

# Sources of addresses, digests, licences and accuracies: for CaffeNet, AlexNet and GoogLeNet, readme.md in each model's
# folder of BVLC/caffe, models/; for the others, the publisher's page that a comment names.
ENTRIES = (
    CatalogEntry(
        name="caffenet",
        title="BVLC Reference CaffeNet",
        description="AlexNet for one GPU, pooling before normalization. ILSVRC-2012 validation, center crop: "
        "top-1 57.4 %, top-5 80.4 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
            sha1="4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
            filename="bvlc_reference_caffenet.caffemodel",
            license="unrestricted",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=1000,
        parameters=60_965_224,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="alexnet",
        title="BVLC AlexNet",
        description="AlexNet as in the paper, normalization before pooling, trained without relighting. ILSVRC-2012 "
        "validation, center crop: top-1 57.1 %, top-5 80.2 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            sha1="9116a64c0fbe4459d18f4bb6b56d647b63920377",
            filename="bvlc_alexnet.caffemodel",
            license="unrestricted",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=1000,
        parameters=60_965_224,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="googlenet",
        title="BVLC GoogLeNet",
        description="22 layers deep in inception modules, with few parameters. ILSVRC-2012 validation, center crop: "
        "top-1 68.7 %, top-5 88.9 %.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
            sha1="405fc5acd08a3bb12de8ee5e23a96bec22f08204",
            filename="bvlc_googlenet.caffemodel",
            license="unrestricted",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=6_998_552,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/ksimonyan/211839e770f7b538e2d8; the licence: www.robots.ox.ac.uk/~vgg/research/very_deep.
    CatalogEntry(
        name="vgg16",
        title="VGG-16",
        description="3x3 convolutions and three matrices, 16 layers in all: slow, popular for its features. "
        "ILSVRC-2012 validation, densely at a smaller side of 384 pixels: top-5 91.9 %.",
        published=PublishedWeights(
            url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            sha1=None,
            filename="VGG_ILSVRC_16_layers.caffemodel",
            license="Creative Commons Attribution License",
        ),
        mean=_VGG_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=138_357_544,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/ksimonyan/3785162f95cd2d5fee77; the licence as above.
    CatalogEntry(
        name="vgg19",
        title="VGG-19",
        description="VGG-16 with three more convolutions. ILSVRC-2012 validation, densely at a smaller side of 384 "
        "pixels: top-5 92.0 %.",
        published=PublishedWeights(
            url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_19_layers.caffemodel",
            sha1=None,
            filename="VGG_ILSVRC_19_layers.caffemodel",
            license="Creative Commons Attribution License",
        ),
        mean=_VGG_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=143_667_240,
        labels_file="imagenet_labels.txt",
    ),
    # gist.github.com/mavenlin/d802a5849de39225bcc6. Its authors trained it with their own mean image of the same
    # training set, which is not published: Caffe's replaces it.
    CatalogEntry(
        name="nin",
        title="Network in Network",
        description="Convolutions followed by 1x1 convolutions, and the mean of a plane instead of a matrix. "
        "ILSVRC-2012 validation: top-1 59.4 %.",
        published=PublishedWeights(
            url="https://www.dropbox.com/s/cphemjekve3d80n/nin_imagenet.caffemodel?dl=1",
            sha1=None,
            filename="nin_imagenet.caffemodel",
            license="BSD",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=7_595_176,
        labels_file="imagenet_labels.txt",
    ),
    # The licence: LICENSE in that repository; the accuracy: the paper, arXiv:1602.07360.
    CatalogEntry(
        name="squeezenet_1_0",
        title="SqueezeNet 1.0",
        description="AlexNet's accuracy with a fiftieth of its parameters. ILSVRC-2012 validation: top-1 57.5 %, "
        "top-5 80.3 %.",
        published=PublishedWeights(
            url=f"{_SQUEEZENET}/SqueezeNet_v1.0/squeezenet_v1.0.caffemodel",
            sha1=None,
            filename="squeezenet_v1.0.caffemodel",
            license="BSD",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=1000,
        parameters=1_248_424,
        labels_file="imagenet_labels.txt",
    ),
    CatalogEntry(
        name="squeezenet_1_1",
        title="SqueezeNet 1.1",
        description="SqueezeNet with a smaller conv1 and earlier pooling: less than half the multiply-adds of 1.0 at "
        "about the same accuracy.",
        published=PublishedWeights(
            url=f"{_SQUEEZENET}/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel",
            sha1=None,
            filename="squeezenet_v1.1.caffemodel",
            license="BSD",
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=1000,
        parameters=1_235_496,
        labels_file="imagenet_labels.txt",
    ),
    # README.md and LICENSE of github.com/KaimingHe/deep-residual-networks. They link to a folder for browsers, not to
    # the file: `fetch` receives a web page there, and tells where to put a file that was downloaded by hand.
    CatalogEntry(
        name="resnet50",
        title="ResNet-50",
        description="50 layers in blocks that add to their input. ILSVRC-2012 validation, center crop: "
        "top-1 75.3 %, top-5 92.2 %. Its link is reported dead: provide ResNet-50-model.caffemodel yourself.",
        published=PublishedWeights(
            url="https://onedrive.live.com/?authkey=%21AAFW2-FVoxeVRck&id=4006CBB8476FF777%2117887&cid=4006CBB8476FF777",
            sha1=None,
            filename="ResNet-50-model.caffemodel",
            license="MIT",
        ),
        mean=_RESNET_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=25_610_269,
        labels_file="imagenet_labels.txt",
    ),
    # README.md and LICENSE of github.com/shicai/MobileNet-Caffe. The link is to a page for browsers, as for ResNet-50.
    CatalogEntry(
        name="mobilenet",
        title="MobileNet",
        description="A convolution for each channel, then one of 1x1: fast and small. ILSVRC-2012 validation, center "
        "crop: top-1 70.8 %, top-5 89.9 %. Provide mobilenet.caffemodel yourself: its link is to a page.",
        published=PublishedWeights(
            url="https://drive.google.com/open?id=0B7ubpZO7HnlCVFFJQU5TQ0dkLUE",
            sha1=None,
            filename="mobilenet.caffemodel",
            license="BSD 3-Clause",
        ),
        mean=_SHICAI_MEAN,
        scale=0.017,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=4_253_891,
        labels_file="imagenet_labels.txt",
    ),
    # README.md of github.com/shicai/DenseNet-Caffe.
    CatalogEntry(
        name="densenet121",
        title="DenseNet-121",
        description="Layers read what all layers before them in their block computed. ILSVRC-2012 validation, center "
        "crop: top-1 74.9 %, top-5 92.2 %. Provide DenseNet_121.caffemodel yourself: its link is to a page.",
        published=PublishedWeights(
            url="https://drive.google.com/open?id=0B7ubpZO7HnlCcHlfNmJkU2VPelE",
            sha1=None,
            filename="DenseNet_121.caffemodel",
            license=_NOT_STATED,
        ),
        mean=_SHICAI_MEAN,
        scale=0.017,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=8_062_625,
        labels_file="imagenet_labels.txt",
    ),
    # README.md of github.com/hujie-frank/SENet; the mean: models/SE-ResNet-50.prototxt there.
    CatalogEntry(
        name="se_resnet50",
        title="SE-ResNet-50",
        description="ResNet-50 whose blocks weigh their channels by the means of the whole image, so that it has no "
        "dense form: only the classifier at its own size. ILSVRC-2012 validation, center crop: top-1 77.6 %, top-5 "
        "93.6 %. Provide SE-ResNet-50.caffemodel yourself: its link is to a page.",
        published=PublishedWeights(
            url="https://drive.google.com/file/d/0BwHV3BlNKkWlS2QwZHFzM3RjNzg/view?usp=sharing",
            sha1=None,
            filename="SE-ResNet-50.caffemodel",
            license=_NOT_STATED,
        ),
        mean=_ROUNDED_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=1000,
        parameters=28_141_197,
        labels_file="imagenet_labels.txt",
    ),
)
