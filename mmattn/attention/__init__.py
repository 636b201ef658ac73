"""Attention mechanisms, one paper one file. Importing this package fills the catalogue."""

from mmattn.attention.asymmetric_non_local import AsymmetricFusion, AsymmetricNonLocal
from mmattn.attention.attention_gate import AttentionGate
from mmattn.attention.bam import BAM
from mmattn.attention.bisenet import AttentionRefinement, FeatureFusion
from mmattn.attention.cbam import CBAM
from mmattn.attention.criss_cross import CrissCross
from mmattn.attention.double_attention import DoubleAttention
from mmattn.attention.dual_attention import ChannelAttention, PositionAttention
from mmattn.attention.efficient_channel import EfficientChannel
from mmattn.attention.frequency_channel import FrequencyChannel
from mmattn.attention.gather_excite import GatherExcite
from mmattn.attention.global_context import GlobalContext
from mmattn.attention.hard_attention import HardAttention
from mmattn.attention.interaction_aggregation import InteractionAggregation
from mmattn.attention.multi_head import MultiHead
from mmattn.attention.non_local import NonLocal
from mmattn.attention.object_context import ObjectContext
from mmattn.attention.point_wise import PointWise
from mmattn.attention.polarized import Polarized
from mmattn.attention.relation_aware import RelationAware
from mmattn.attention.residual_attention import ResidualAttention
from mmattn.attention.scse import SCSE, ChannelSE, SpatialSE
from mmattn.attention.second_order import SecondOrder
from mmattn.attention.selective_kernel import SelectiveKernel
from mmattn.attention.spatial_pyramid import SpatialPyramid
from mmattn.attention.squeeze_excite import SqueezeExcite
from mmattn.catalogue import create, entries

__all__ = [
    "BAM",
    "CBAM",
    "SCSE",
    "AsymmetricFusion",
    "AsymmetricNonLocal",
    "AttentionGate",
    "AttentionRefinement",
    "ChannelAttention",
    "ChannelSE",
    "CrissCross",
    "DoubleAttention",
    "EfficientChannel",
    "FeatureFusion",
    "FrequencyChannel",
    "GatherExcite",
    "GlobalContext",
    "HardAttention",
    "InteractionAggregation",
    "MultiHead",
    "NonLocal",
    "ObjectContext",
    "PointWise",
    "Polarized",
    "PositionAttention",
    "RelationAware",
    "ResidualAttention",
    "SecondOrder",
    "SelectiveKernel",
    "SpatialPyramid",
    "SpatialSE",
    "SqueezeExcite",
    "create",
    "entries",
]
