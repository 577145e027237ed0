"""The methods by the names that the experiment calls them by."""

from collections.abc import Mapping
from typing import Final

from efficientad_lab.methods.asymmetric import AsymmetricStudentTeacher
from efficientad_lab.methods.dsr import DualSubspace
from efficientad_lab.methods.fastflow import FastFlow
from efficientad_lab.methods.gcad import GlobalContext
from efficientad_lab.methods.method import Method
from efficientad_lab.methods.patchcore import PatchCore
from efficientad_lab.methods.patchcore_ensemble import PatchCoreEnsemble
from efficientad_lab.methods.simplenet import SimpleNet
from efficientad_lab.methods.student_teacher import StudentTeacher

METHODS: Final[Mapping[str, type[Method]]] = {
    "patchcore": PatchCore,
    "patchcore-ens": PatchCoreEnsemble,
    "fastflow": FastFlow,
    "simplenet": SimpleNet,
    "s-t": StudentTeacher,
    "ast": AsymmetricStudentTeacher,
    "gcad": GlobalContext,
    "dsr": DualSubspace,
}
