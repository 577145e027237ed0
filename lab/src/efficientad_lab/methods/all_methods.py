"""The methods by the names that the experiment calls them by."""

from collections.abc import Mapping
from typing import Final

from efficientad_lab.methods.method import Method
from efficientad_lab.methods.patchcore import PatchCore, PatchCoreEnsemble

METHODS: Final[Mapping[str, type[Method]]] = {
    "patchcore": PatchCore,
    "patchcore-ens": PatchCoreEnsemble,
}
