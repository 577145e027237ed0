"""Parts drawn by code, with exact masks: the images of the demo."""

from efficientad.demo_parts.category import draw_part, write_category
from efficientad.demo_parts.parts import DEFECT_TYPES, DefectType

__all__ = ["DEFECT_TYPES", "DefectType", "draw_part", "write_category"]
