from .maps.classification_map import ClassificationMap as ClassificationMap
from .maps.geometry import Geometry as Geometry
from .sources.reference import ImageReference as ImageReference
from .table.reader import MapTable as MapTable
from .transforms.list_images import ListImages as ListImages
from .transforms.score_images import ScoreImages as ScoreImages
