"""The catalog's nets for classes of their own: places, faces, styles, flowers, digits, and more."""

from models.entry import CatalogEntry, PublishedWeights, ShippedWeights

# Channel means of Caffe's imagenet_mean.binaryproto; nets that were fine-tuned from CaffeNet keep it.
_ILSVRC_2012_MEAN = (104.00699, 116.66877, 122.67892)
# Channel means of the images of Places205, as the authors of Places205-VGGNet state them: the publisher of the AlexNet
# form gives a mean image, in the archive with the weights.
_PLACES205_MEAN = (105.487823486, 113.741088867, 116.060394287)
# Channel means of places365CNN_mean.binaryproto in github.com/CSAILVision/places365.
_PLACES365_MEAN = (104.051, 112.514, 116.676)
# Channel means of models/mean.binaryproto in github.com/GilLevi/AgeGenderDeepLearning.
_FACES_MEAN = (78.4263377603, 87.7689143744, 114.895847746)
_NOT_STATED = "not stated by the publisher"
_CC_BY = "Creative Commons Attribution (CC BY)"
_AGE_AND_GENDER = "http://www.openu.ac.il/home/hassner/projects/cnn_agegender/"

ENTRIES = (
    # The licence: README.md of github.com/CSAILVision/places365, for all Places CNNs. The address is a page: the
    # weights are in the archive placesCNN.tar.gz.
    CatalogEntry(
        name="places205",
        title="Places205-CNN",
        description="CaffeNet for 205 kinds of places. Places205 validation: top-1 50.0 %. Provide "
        "places205CNN_iter_300000.caffemodel yourself: it is in an archive.",
        published=PublishedWeights(
            url="http://places.csail.mit.edu/downloadCNN.html",
            sha1=None,
            filename="places205CNN_iter_300000.caffemodel",
            license=_CC_BY,
        ),
        mean=_PLACES205_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=205,
        parameters=57_708_109,
        labels_url="http://places.csail.mit.edu/downloadCNN.html",
    ),
    # README.md of github.com/CSAILVision/places365.
    CatalogEntry(
        name="places365",
        title="CaffeNet-Places365",
        description="CaffeNet for 365 kinds of places; its publisher calls it AlexNet-places365.",
        published=PublishedWeights(
            url="http://places2.csail.mit.edu/models_places365/alexnet_places365.caffemodel",
            sha1=None,
            filename="alexnet_places365.caffemodel",
            license=_CC_BY,
        ),
        mean=_PLACES365_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=365,
        parameters=58_363_629,
        labels_url="https://github.com/CSAILVision/places365/blob/master/categories_places365.txt",
    ),
    # README.md of github.com/GilLevi/AgeGenderDeepLearning, which states no licence of the weights. The address is a
    # page that links to them.
    CatalogEntry(
        name="age_levi",
        title="Age of faces (Levi and Hassner)",
        description="Three convolutions and three matrices, for faces: eight ranges of age. Adience: 50.7 % exactly, "
        "84.7 % within one range. Provide age_net.caffemodel yourself: its link is to a page.",
        published=PublishedWeights(
            url=_AGE_AND_GENDER,
            sha1=None,
            filename="age_net.caffemodel",
            license=_NOT_STATED,
        ),
        mean=_FACES_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=8,
        parameters=11_415_048,
        labels_file="age_levi/labels.txt",
    ),
    # README.md of github.com/GilLevi/AgeGenderDeepLearning, which states no licence of the weights. The address is a
    # page that links to them.
    CatalogEntry(
        name="gender_levi",
        title="Gender of faces (Levi and Hassner)",
        description="Three convolutions and three matrices, for faces: two genders. Adience: 86.8 %. Provide "
        "gender_net.caffemodel yourself: its link is to a page.",
        published=PublishedWeights(
            url=_AGE_AND_GENDER,
            sha1=None,
            filename="gender_net.caffemodel",
            license=_NOT_STATED,
        ),
        mean=_FACES_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=2,
        parameters=11_411_970,
        labels_file="gender_levi/labels.txt",
    ),
    # models/finetune_flickr_style/readme.md in BVLC/caffe.
    CatalogEntry(
        name="flickr_style",
        title="Flickr style",
        description="CaffeNet fine-tuned to twenty styles of photographs, such as noir. Not for commercial use.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/finetune_flickr_style.caffemodel",
            sha1="443ad95a61fb0b5cd3cee55951bcc1f299186b5e",
            filename="finetune_flickr_style.caffemodel",
            license="non-commercial",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=20,
        parameters=56_950_164,
        labels_file="flickr_style/labels.txt",
    ),
    # README.md of github.com/jimgoo/caffe-oxford102, which says that the mean is that of ILSVRC-2012.
    CatalogEntry(
        name="oxford102",
        title="Oxford-102 flowers",
        description="CaffeNet fine-tuned to 102 kinds of flowers. Its publisher's test images: top-1 93.3 %.",
        published=PublishedWeights(
            url="https://s3.amazonaws.com/jgoode/oxford102.caffemodel",
            sha1=None,
            filename="oxford102.caffemodel",
            license=_NOT_STATED,
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=102,
        parameters=57_286_118,
        labels_url="https://github.com/jimgoo/caffe-oxford102/blob/master/class_labels.py",
    ),
    # README.md, LICENSE.md and classify_nsfw.py of github.com/yahoo/open_nsfw.
    CatalogEntry(
        name="open_nsfw",
        title="open_nsfw",
        description="ResNet-50 with half the filters, for pornographic images: its second class is not suitable for "
        "work. The publisher guarantees no accuracy.",
        published=PublishedWeights(
            url="https://github.com/yahoo/open_nsfw/raw/master/nsfw_model/resnet_50_1by2_nsfw.caffemodel",
            sha1=None,
            filename="resnet_50_1by2_nsfw.caffemodel",
            license="BSD 2-Clause",
        ),
        mean=(104.0, 117.0, 123.0),
        scale=1.0,
        channel_order="bgr",
        crop=224,
        classes=2,
        parameters=5_944_567,
        labels_file="open_nsfw/labels.txt",
    ),
    # models/bvlc_reference_rcnn_ilsvrc13/readme.md in BVLC/caffe. The class names are in det_synset_words.txt
    # of that archive.
    CatalogEntry(
        name="rcnn_ilsvrc13",
        title="BVLC Reference R-CNN ILSVRC13",
        description="CaffeNet whose last layer holds R-CNN's support vector machines, for 200 classes of objects. Its "
        "map has a Softmax of margins: their order, no calibrated probabilities.",
        published=PublishedWeights(
            url="http://dl.caffe.berkeleyvision.org/bvlc_reference_rcnn_ilsvrc13.caffemodel",
            sha1="bdd8abb885819cba5e2fe1eb36235f2319477e64",
            filename="bvlc_reference_rcnn_ilsvrc13.caffemodel",
            license="unrestricted",
        ),
        mean=_ILSVRC_2012_MEAN,
        scale=1.0,
        channel_order="bgr",
        crop=227,
        classes=200,
        parameters=57_687_624,
        labels_url="http://dl.caffe.berkeleyvision.org/caffe_ilsvrc12.tar.gz",
    ),
    CatalogEntry(
        name="digits",
        title="densecast handwritten digits",
        description="A small CaffeNet for handwritten digits and background, windows of 32 pixels every 4 pixels; its "
        "weights are part of the package.",
        published=None,
        mean=(208.0, 224.0, 231.0),
        scale=1 / 64,
        channel_order="bgr",
        crop=32,
        classes=11,
        parameters=112_955,
        labels_file="digits/labels.txt",
        shipped=ShippedWeights(
            file="digits/digits.caffemodel",
            license="Apache-2.0; trained on the UCI data set Optical Recognition of Handwritten Digits, CC BY 4.0",
        ),
    ),
)
