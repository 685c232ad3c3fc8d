"""Feature encoders: written once, run offline over partitions and online over one request, bit for bit the same."""

from encoders.bound_model import BoundModel
from encoders.data_map import DataMaps, Element
from encoders.declared_elements import data_key
from encoders.encoder import FeatureEncoder, feature_encoder
from encoders.feature_model import FeatureModel
from encoders.hash_index import lookup
from encoders.promotion import Promoted, promote
from encoders.vector import Vector
from encoders.vocabulary import Vocabulary, code_of
from schemas.hashing import text_code

__all__ = [
    "BoundModel",
    "DataMaps",
    "Element",
    "FeatureEncoder",
    "FeatureModel",
    "Promoted",
    "Vector",
    "Vocabulary",
    "code_of",
    "data_key",
    "feature_encoder",
    "lookup",
    "promote",
    "text_code",
]
